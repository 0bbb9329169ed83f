"""Webhooks: what is sent when a walk ends, and where it may be sent."""
