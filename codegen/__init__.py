"""Code generation: fused groups of a graph to kernels and source text; never touches a device."""
