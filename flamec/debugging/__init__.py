"""Finding out why a program is wrong: reproductions, the search for a stage, smaller graphs."""
