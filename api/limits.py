"""Rate limits of callers, counted in Redis for all API processes, and what remains of their daily budgets.

While Redis is down, rates are not limited; the budgets are in PostgreSQL (`queue.budgets`).
"""

import math
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute, WindowStats
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import Sentinel
from starlette.datastructures import QueryParams
from starlette.types import Scope

from api.response_headers import response_headers
from momalisa import broker
from momalisa.db.session import refuse_open_transaction
from momalisa.errors import InvalidFieldError, LimitExceededError
from momalisa.queue import budgets
from momalisa.queue.budgets import Budget
from momalisa.settings import settings
from momalisa.telemetry.logging import logger
from momalisa.walks.service import NewWalk

log = logger(__name__)

REDIS_SECONDS = 0.25
"""Timeout of Redis."""

PAUSE_SECONDS = 5
"""Pause after Redis timed out, so that not every request waits for it."""

SEARCH_COST = 5
"""Number of requests that a search in prompts counts as."""


def count_request(scope: Scope, tenant: str) -> None:
    """Count a request of a tenant, and put what remains into the response headers; a search counts as several.

    Raises:
        LimitExceededError: if the limit is exceeded.
    """
    if settings().rate_limits:
        limit = settings().requests_per_minute
        cost = min(SEARCH_COST, limit) if QueryParams(scope["query_string"]).get("q") else 1
        _take(scope, RateLimitItemPerMinute(limit, namespace="requests"), tenant, cost)


def check_variations(count: int) -> None:
    """Refuse a request for so many walks that it could never succeed.

    Raises:
        InvalidFieldError: if the walks alone exceed the rate limit or MAX_WAITING_WALKS.
    """
    most = min(settings().max_waiting_walks, settings().submissions_per_minute)
    if settings().rate_limits and count > most:
        raise InvalidFieldError("variations", f"at most {most} here, got {count}")


def count_walk(scope: Scope, tenant: str, new: NewWalk) -> None:
    """Count a walk that a tenant submits, with its variations, and put what remains into the response headers.

    Raises:
        InvalidFieldError: if the walks alone exceed a daily budget.
        LimitExceededError: if the rate limit is exceeded.
    """
    if not settings().rate_limits:
        return
    count = 1 + len(new.variations)
    budgets.check_possible(new.spec, new.pins, count)
    _take(scope, RateLimitItemPerMinute(settings().submissions_per_minute, namespace="submissions"), tenant, count)


def show_budgets(scope: Scope, found: Iterable[Budget]) -> None:
    """Put what remains of daily budgets into the response headers."""
    for budget in found:
        item = RateLimitItemPerDay(budget.per_day, namespace=budget.name)
        _add_headers(scope, item, remaining=budget.left, seconds=budget.reset_seconds)


def seconds_until_room(
    cost: int, limit: int, window: float, previous: int, previous_left: float, current: int, current_left: float
) -> int:
    """Return after how many seconds a sliding window has room for a cost, if nothing else is counted until then.

    The limiter estimates what was counted in the last `window` seconds: all of the current count, and the part of
    the previous count that corresponds to the part of its window that still overlaps.

    Args:
        cost: at most `limit`.
        limit: maximum per window.
        window: length of a window in seconds.
        previous: count of the previous window.
        previous_left: seconds until the previous window no longer overlaps.
        current: count of the current window.
        current_left: seconds until the current window no longer overlaps.
    """
    allowed = limit - cost
    if previous and current <= allowed:
        seconds = previous_left - (allowed - current) * window / previous
    else:
        seconds = current_left - window * min(allowed / current, 1) if current else 0
    return max(1, math.ceil(seconds))


class _Counters:
    """The counters in a Redis."""

    def __init__(self, url: str, prefix: str) -> None:
        self._storage = RedisStorage(
            "redis://",  # required, but unused: the pool has the address
            _pool(broker.parse(url)),
            key_prefix=f"{prefix}limits",
            wrap_exceptions=True,
        )
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._paused_until = 0.0  # monotonic seconds

    def take(self, item: RateLimitItem, tenant: str, cost: int) -> WindowStats | None:
        """Count a cost, and return what remains; None while Redis is down.

        Raises:
            LimitExceededError: if the limit would be exceeded.
        """
        refuse_open_transaction()
        if time.monotonic() < self._paused_until:
            return None
        try:
            if self._limiter.hit(item, tenant, cost=cost):
                return self._limiter.get_window_stats(item, tenant)
            window = item.get_expiry()
            counts = self._storage.get_sliding_window(item.key_for(tenant), window)
        except StorageError as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            log.warning("limits are not counted", reason=str(error.storage_error), pause_seconds=PAUSE_SECONDS)
            return None
        raise LimitExceededError(
            f"Rate limit exceeded: at most {item.amount} {item.namespace} per {window} s.",
            retry_after=seconds_until_room(cost, item.amount, window, *counts),
        )


def _pool(address: broker.Address) -> ConnectionPool:
    """Return a pool of connections to a broker with short timeouts, so that no request waits long."""
    timeouts: dict[str, Any] = {
        "socket_connect_timeout": REDIS_SECONDS,
        "socket_timeout": REDIS_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    options = {**address.login(), **timeouts}
    if address.socket is not None:
        del options["socket_connect_timeout"]
        return ConnectionPool(UnixDomainSocketConnection, path=address.socket, **options)
    if address.master:
        sentinels: Any = Sentinel(list(address.hosts), sentinel_kwargs=timeouts, **options)  # type: ignore[no-untyped-call]
        found: ConnectionPool = sentinels.master_for(address.master).connection_pool
        return found
    [(host, port)] = address.hosts
    if address.tls:
        options |= address.certificates(settings().broker_ca)
    return ConnectionPool(SSLConnection if address.tls else Connection, host=host, port=port, **options)


@cache
def _counters(url: str, prefix: str) -> _Counters:
    return _Counters(url, prefix)


def _take(scope: Scope, item: RateLimitItem, tenant: str, cost: int = 1) -> None:
    """Count a cost against a limit of a tenant, and put what remains into the response headers.

    Raises:
        LimitExceededError: if the limit would be exceeded.
    """
    try:
        left = _counters(settings().broker_url, settings().queue_prefix).take(item, tenant, cost)
    except LimitExceededError as error:
        _add_headers(scope, item, remaining=0, seconds=error.retry_after)
        raise
    if left:
        _add_headers(
            scope, item, remaining=left.remaining, seconds=max(1, math.ceil(left.reset_time - time.time()))
        )


def _add_headers(scope: Scope, item: RateLimitItem, *, remaining: int, seconds: int) -> None:
    """Put a limit, and what remains of it, into the response headers.

    Source: draft-ietf-httpapi-ratelimit-headers-10.
    """
    headers = response_headers(scope)
    for name, value in (
        ("RateLimit-Policy", f'"{item.namespace}";q={item.amount};w={item.get_expiry()}'),
        ("RateLimit", f'"{item.namespace}";r={remaining};t={seconds}'),
    ):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
