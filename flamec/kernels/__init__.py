"""Operations whose kernels the user writes: in Triton, in C, with NumPy."""
