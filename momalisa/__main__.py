"""`python -m momalisa` is the `momalisa` command."""

from momalisa.cli import app

app(prog_name="momalisa")
