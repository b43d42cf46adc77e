"""Functions of tensors under PyTorch's names, written in terms of the primitives."""
