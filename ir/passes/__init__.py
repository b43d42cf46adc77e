"""Passes: pure functions from Graph to Graph, one verb a file; ``pipeline.py`` orders them."""
