"""Errors as problem documents (RFC 9457): the catalog of types, the documents, and the exception handlers."""
