"""tmp"""
def is_available(options): return False
