"""Lowering: one fused group of tasks to one kernel of the Kernel IR."""
