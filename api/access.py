"""Who asks: the owner of an API key, a visitor with a cookie, or an address."""

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
"""Its name behind https: browsers let only this very host set it, so that no neighbour can replace it."""

COOKIE_SECONDS = 365 * 24 * 3600

bearer = HTTPBearer(
    auto_error=False, scheme_name="api_key", description="An API key, as `momalisa keys` makes them."
)
"""For the documentation only: it takes a malformed header for none."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    owner: str | None
    """Who owns what it makes: `key:ID` or `visitor:ID`; None for a visitor who has made nothing yet."""
    tenant: str
    """Who takes turns with others and is held to limits: `key:ID` or `address:NETWORK`."""
    key: UUID | None
    """The API key that it showed."""


@dataclass(frozen=True)
class Owner(Caller):
    """A caller who may own what it makes."""

    owner: str
    known: bool
    """Whether the request said who it is; else the owner was drawn, for the answer to name (`recognize`)."""


def caller(request: Request, _: Annotated[object, Depends(bearer)]) -> Caller:
    """Return who sent a request, after counting it; how often it is asked makes no difference.

    Raises:
        UnauthorizedError: if it shows something that is no API key that holds.
        LimitExceededError: if it is one too many.
    """
    state: dict[str, Caller] = request.scope.setdefault("state", {})
    if "caller" not in state:
        state["caller"] = _counted(request, _find)
    return state["caller"]


def poller(request: Request, _: Annotated[object, Depends(bearer)]) -> Caller:
    """Return who polls, like `caller`, but a key that was seen before is for the query to confirm that follows.

    So a poll costs one query, and a key that is revoked is worthless at once all the same.
    """
    return _counted(request, lambda secret: api_keys.recall(secret) or _find(secret))


def _address(request: Request) -> str:
    client = request.client.host if request.client else ""
    forwarded = request.headers.getlist("x-forwarded-for")
    return f"address:{client_network(client_address(client, forwarded, settings().trusted_proxies))}"


def _counted(request: Request, find: Callable[[str], UUID]) -> Caller:
    tenant = _address(request)
    owner = key = None
    try:
        if shown := request.headers.getlist("authorization"):
            key = find(_secret(shown))
            owner = tenant = f"key:{key}"
        elif visitor := _visitor(request):
            owner = f"visitor:{visitor}"
    finally:
        limits.count_request(request.scope, tenant)  # also those that try keys
    return Caller(owner, tenant, key)


def _visitor(request: Request) -> str | None:
    """Return who the visitor is by a cookie of ours; behind https also by one from before it was guarded."""
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
    """Return who submits a walk; for a visitor without a cookie an owner is drawn.

    Raises:
        UnauthorizedError: if an API key is needed and there is none.
    """
    if not settings().anonymous and not caller.tenant.startswith("key:"):
        raise UnauthorizedError("Walks are made here with an API key only: send it as `Authorization: Bearer …`.")
    if caller.owner is not None:
        return Owner(caller.owner, caller.tenant, caller.key, known=True)
    return Owner(f"visitor:{secrets.token_urlsafe(16)}", caller.tenant, caller.key, known=False)


def set_visitor_cookie(request: Request, response: Response, owner: Owner) -> None:
    """Give a visitor the cookie by which it will be known again, unless it has it; the owner of a key needs none.

    The owner is the one that the same request brought or drew: no answer ever gives the cookie of somebody else.
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


def _secret(shown: Sequence[str]) -> str:
    scheme, _, secret = shown[0].partition(" ")
    if len(shown) > 1 or scheme.lower() != "bearer":
        raise UnauthorizedError("An API key is sent as `Authorization: Bearer …`, once.")
    return secret.strip()
