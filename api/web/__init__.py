"""The website: its templates, files and form."""
