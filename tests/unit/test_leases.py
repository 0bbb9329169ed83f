"""When a lease has run out, by the clock of the reconciler that looks at it."""

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
    """Return a lease after one more heartbeat, by a clock that went on by so many seconds, or was set back."""
    return held._replace(expires_at=held.expires_at + timedelta(seconds=seconds))


def rounds(watch: LeaseMonitor, held: ObservedLease, begin: int, end: int) -> list[int]:
    """Look once a round, and return when the lease was found lost."""
    return [now for now in range(begin, end, ROUND) if watch.observe([held], now)]


def test_a_silent_lease_runs_out_after_its_length(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 50) == [35, 40, 45]
    [lost] = watch.observe([held], 50)
    assert lost == (held, 50 - LEASE)


def test_a_heartbeat_makes_the_lease_new_whatever_time_it_says(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 30) == []
    assert rounds(watch, beaten(held, -3600), 30, 60) == []
    assert rounds(watch, beaten(held, 3600), 60, 100) == [95]


def test_no_lease_runs_out_while_the_database_does_not_answer_or_just_after(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 30) == []
    assert rounds(watch, held, 300, 330 + ROUND) == []  # nothing was answered in between
    assert rounds(watch, held, 335, 340) == [335]


def test_one_skipped_round_is_no_gap(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 20) == []
    assert rounds(watch, held, 25, 40) == [35]


def test_what_is_no_longer_held_is_forgotten(held: ObservedLease) -> None:
    watch = LeaseMonitor()
    assert rounds(watch, held, 0, 30) == []
    watch.observe([], 30)
    assert rounds(watch, held, 35, 70) == []
