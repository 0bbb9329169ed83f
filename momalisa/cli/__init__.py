"""The `momalisa` command, for users and for operators."""
