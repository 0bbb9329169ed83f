"""Where this site is, as its visitors see it."""

from fastapi import Request

from momalisa.settings import settings


def url(request: Request) -> str:
    """Return the address of this site as the caller sees it, without a slash at its end."""
    return (settings().public_url or str(request.base_url)).rstrip("/")
