"""Errors of code generation, apart from the generator so that naming them imports nothing heavy."""


class LoweringError(Exception):
    """An operation that the back end cannot express; the message names it."""
