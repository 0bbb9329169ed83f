"""The website: its templates, static files and form."""
