"""`python -m momalisa` is the `momalisa` command."""

from momalisa.cli.main import app

app(prog_name="momalisa")
