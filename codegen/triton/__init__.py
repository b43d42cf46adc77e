"""Triton source for GPUs from the Kernel IR: text and plans, no device and no compiler."""
