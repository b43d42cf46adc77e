"""The CPU: C compilation, the vector header, threads and BLAS."""
