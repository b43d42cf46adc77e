"""Compiled programs as files: written by ``export``, read by ``flamec.load``."""
