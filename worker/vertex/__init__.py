"""Rendering on Vertex AI: the client in a worker, and the server behind the endpoint."""
