"""Who sent a request: the owner of an API key, a visitor with a cookie, or just an address."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer

from api import limits, signing, site
from api.addresses import client_address, client_network
from momalisa import api_keys
from momalisa.db.session import transaction
from momalisa.errors import UnauthorizedError
from momalisa.settings import settings

COOKIE = "visitor"
GUARDED_COOKIE = "__Host-visitor"
"""Its name over https: browsers accept it only from this very host, so no subdomain can replace it."""

COOKIE_SECONDS = 365 * 24 * 3600

bearer = HTTPBearer(
    auto_error=False, scheme_name="api_key", description="An API key, created by `momalisa keys create`."
)
"""For the documentation only: it treats a malformed header as a missing one."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    owner: str | None
    """The owner of the caller's walks: `key:ID` or `visitor:ID`; None for a visitor without a cookie."""
    tenant: str
    """The tenant for fairness and limits: `key:ID` or `address:NETWORK`."""
    key: UUID | None
    """The id of its API key."""


@dataclass(frozen=True)
class Owner(Caller):
    """A caller who can own walks."""

    owner: str
    known: bool
    """Whether the request identified its owner; if not, a new one was generated for the response's cookie."""


def caller(request: Request, _: Annotated[object, Depends(bearer)]) -> Caller:
    """Return who sent a request, and count the request against the rate limit, once.

    Raises:
        UnauthorizedError: if its API key is not valid.
        LimitExceededError: if the rate limit is exceeded.
    """
    state: dict[str, Caller] = request.scope.setdefault("state", {})
    if "caller" not in state:
        state["caller"] = _counted(request, _find)
    return state["caller"]


def poller(request: Request, _: Annotated[object, Depends(bearer)]) -> Caller:
    """Return who sent a request, like `caller`, but leave the check of a known API key to the query that follows.

    So a poll costs one query, and a revoked key still stops working at once.
    """
    return _counted(request, lambda secret: api_keys.cached_id(secret) or _find(secret))


def _address(request: Request) -> str:
    client = request.client.host if request.client else ""
    forwarded = request.headers.getlist("x-forwarded-for")
    return f"address:{client_network(client_address(client, forwarded, settings().trusted_proxies))}"


def _counted(request: Request, find: Callable[[str], UUID]) -> Caller:
    tenant = _address(request)
    owner = key = None
    try:
        if authorization := request.headers.getlist("authorization"):
            key = find(_secret(authorization))
            owner = tenant = f"key:{key}"
        elif visitor := _visitor(request):
            owner = f"visitor:{visitor}"
    finally:
        limits.count_request(request.scope, tenant)  # also after an invalid key
    return Caller(owner, tenant, key)


def _visitor(request: Request) -> str | None:
    """Return the visitor's id from the cookie; over https also from one without the guarded name."""
    for name in (_cookie(request), COOKIE):
        if visitor := signing.verify(request.cookies.get(name, ""), name):
            return visitor
    return None


def _cookie(request: Request) -> str:
    return GUARDED_COOKIE if site.is_https(request) else COOKIE


def _find(secret: str) -> UUID:
    with transaction() as session:
        return api_keys.find(session, secret)


def submitter(caller: Annotated[Caller, Depends(caller)]) -> Owner:
    """Return who submits a walk; a visitor without a cookie gets a new identity.

    Raises:
        UnauthorizedError: if the server requires an API key and there is none.
    """
    if not settings().anonymous and not caller.tenant.startswith("key:"):
        raise UnauthorizedError(
            "This server requires an API key to create walks: send it as `Authorization: Bearer …`."
        )
    if caller.owner is not None:
        return Owner(caller.owner, caller.tenant, caller.key, known=True)
    return Owner(f"visitor:{secrets.token_urlsafe(16)}", caller.tenant, caller.key, known=False)


def set_visitor_cookie(request: Request, response: Response, owner: Owner) -> None:
    """Set the cookie that identifies a visitor, unless the request had it or an API key.

    `owner` must be that of the same request, so that no response sets the cookie of another visitor.
    """
    name = _cookie(request)
    if owner.key is not None or (owner.known and name in request.cookies):
        return
    visitor = owner.owner.removeprefix("visitor:")
    response.set_cookie(
        name,
        signing.sign(visitor, name),
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="lax",
        secure=name == GUARDED_COOKIE,
    )


def _secret(authorization: Sequence[str]) -> str:
    scheme, _, secret = authorization[0].partition(" ")
    if len(authorization) > 1 or scheme.lower() != "bearer":
        raise UnauthorizedError("Send the API key as `Authorization: Bearer …`, in one header.")
    return secret.strip()
