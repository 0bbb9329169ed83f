"""Who asks: the owner of an API key, a visitor with a cookie, or an address."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer

from api import limits, signing, site
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
        if visitor := signing.verified(request.cookies.get(name, ""), name):
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
        signing.signed(visitor, name),
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="lax",
        secure=name == GUARDED_COOKIE,
    )


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """Return the address that a request came from, as far as it is known from those who can be believed.

    Args:
        peer: the address at the other end of the connection.
        forwarded: the X-Forwarded-For headers of the request. Each proxy adds at the end whom it talked to; a
            client can write there what it likes, so only what a trusted proxy added counts: from the right, up to
            the first address that is not of a trusted proxy.
        trusted: networks of the trusted proxies.
    """
    address = peer
    for hop in reversed(",".join(forwarded).split(",")):
        before = _parsed(hop.strip())
        if before is None or not is_among(address, trusted):
            break
        address = str(before)
    return address


def is_among(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Tell whether an address is of one of the networks."""
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def client_network(address: str) -> str:
    """Return the network that counts as one tenant: an IPv4 address, or the /64 that an IPv6 line has at least."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed), 64), strict=False))
    return address if parsed is None else str(parsed)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed


def _secret(shown: Sequence[str]) -> str:
    scheme, _, secret = shown[0].partition(" ")
    if len(shown) > 1 or scheme.lower() != "bearer":
        raise UnauthorizedError("An API key is sent as `Authorization: Bearer …`, once.")
    return secret.strip()
