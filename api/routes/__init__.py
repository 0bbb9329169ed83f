"""The routes of the API and the website, one module per subject."""
