"""What visitors and operators do with walks: submit, read, search, hide, delete."""
