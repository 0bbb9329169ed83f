"""Waiting for changes of walks: long polling and server-sent events."""
