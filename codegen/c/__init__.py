"""C source of kernels: text of statements, loops from templates, one program per graph."""
