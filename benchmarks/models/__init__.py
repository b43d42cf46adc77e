"""Models that several benchmarks measure, written for flamec or for PyTorch."""
