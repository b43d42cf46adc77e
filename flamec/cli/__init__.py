"""The command line, ``flamec``: one file a command; the only place that imports typer."""
