"""Expiry of leases, by the clock of the reconciler."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from momalisa.domain.states import ChunkKind
from momalisa.queue.reclaim import LeaseMonitor, ObservedLease
from momalisa.settings import settings

LEASE, ROUND = 30, 5


@pytest.fixture(autouse=True)
def _defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE_SECONDS", str(LEASE))
    monkeypatch.setenv("RECONCILE_SECONDS", str(ROUND))
    settings.cache_clear()


@pytest.fixture
def held() -> ObservedLease:
    return ObservedLease(uuid4(), 0, ChunkKind.RENDER, uuid4(), datetime.now(UTC))


def beaten(held: ObservedLease, seconds: float = 10) -> ObservedLease:
    """Return a lease after another heartbeat, by a clock that has advanced by some seconds, or was set back."""
    return held._replace(expires_at=held.expires_at + timedelta(seconds=seconds))


def rounds(watch: LeaseMonitor, held: ObservedLease, begin: int, end: int) -> list[int]:
    """Observe the lease once per round, and return when it was found expired."""
    return [now for now in range(begin, end, ROUND) if watch.observe([held], now)]


def test_a_silent_lease_expires_after_its_duration(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 50) == [35, 40, 45]
    [lost] = watch.observe([held], 50)
    assert lost == (held, 50 - LEASE)


def test_a_heartbeat_renews_the_lease_whatever_its_time(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 30) == []
    assert rounds(watch, beaten(held, -3600), 30, 60) == []
    assert rounds(watch, beaten(held, 3600), 60, 100) == [95]


def test_no_lease_expires_while_the_database_is_down_or_just_after(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 30) == []
    assert rounds(watch, held, 300, 330 + ROUND) == []  # no answers in between
    assert rounds(watch, held, 335, 340) == [335]


def test_one_skipped_round_is_no_gap(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 20) == []
    assert rounds(watch, held, 25, 40) == [35]


def test_ended_leases_are_forgotten(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 30) == []
    watch.observe([], 30)
    assert rounds(watch, held, 35, 70) == []
