"""Webhooks: their delivery when a walk ends, and where they may be sent."""
