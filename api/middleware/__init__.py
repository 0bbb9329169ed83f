"""Middleware, in the order of `api/app.py`: the last one added there sees a request first."""
