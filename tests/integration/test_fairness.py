"""Fairness: tenants with queued work are served equally, whatever the size of their walks."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import combinations
from uuid import UUID

import hypothesis
import pytest
from hypothesis import strategies as st
from sqlalchemy import select, text

from momalisa.db.models import Chunk, Tenant
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus
from momalisa.errors import LeaseLostError, WalkEndedError
from momalisa.maintenance import reconciler
from momalisa.queue import leases, lifecycle
from momalisa.queue.fairness import FAIRNESS
from momalisa.queue.leases import Claim
from momalisa.walks import service
from tests.claims import claim, finish
from tests.conftest import empty

pytestmark = pytest.mark.usefixtures("services")

Make = Callable[..., UUID]


@pytest.fixture
def make(spec: Callable[..., WalkSpec]) -> Make:
    def make_walk(tenant: str, frames: int = 8, pacing: str = "linear", walks: int = 1) -> UUID:
        ordered = spec(frames=frames, pacing=pacing)
        with transaction() as session:
            return [service.create(session, ordered, public=True, owner=tenant).id for _ in range(walks)][-1]

    return make_walk


def serve(number: int, after: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Complete a number of chunks one after the other, and return the tenant of each."""
    for _ in range(number):
        claimed = claim()
        finish(claimed)
        yield claimed.owner
        after()


def waiting() -> set[str]:
    """Return the tenants with a queued chunk that was never claimed."""
    with transaction() as session:
        fresh = select(Chunk.tenant).where(
            Chunk.status == ChunkStatus.QUEUED, Chunk.kind == ChunkKind.RENDER, Chunk.priority > 0
        )
        return set(session.scalars(fresh.distinct()))


TENANTS = ["ann", "bob", "eve"]

SUBMISSION = st.tuples(
    st.sampled_from(TENANTS), st.sampled_from([2, 8, 8, 24, 48, 80]), st.sampled_from(["linear", "even"])
)
STEP = st.one_of(
    SUBMISSION,
    st.sampled_from(["claim"] * 5),
    st.tuples(st.sampled_from(["finish", "finish", "release", "cancel"]), st.integers(0, 9)),
)


@hypothesis.settings(
    max_examples=12,
    deadline=None,
    phases=[
        hypothesis.Phase.explicit,
        hypothesis.Phase.reuse,
        hypothesis.Phase.generate,
    ],  # shrinking takes minutes
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.lists(SUBMISSION, min_size=3, max_size=6), st.lists(STEP, min_size=20, max_size=50).map(tuple))
def test_tenants_with_queued_chunks_are_served_equally_over_any_stretch(
    make: Make, begin: list[tuple[str, int, str]], steps: tuple[object, ...]
) -> None:
    """Fairness holds for any order of submissions, completions, releases and cancellations."""
    empty()
    walks = [(tenant, make(tenant, *about)) for tenant, *about in begin]
    held: list[Claim] = []
    seen: set[tuple[UUID, int]] = set()
    served: Counter[str] = Counter()
    leads: dict[tuple[str, str], list[int]] = {}
    for step in [*steps, *["claim"] * 15]:
        match step:
            case "claim" if there := waiting():
                before = served.copy()
                held.append(claim())
                if (chunk := (held[-1].walk_id, held[-1].number)) not in seen:
                    served[held[-1].owner] += 1
                    seen.add(chunk)
                leads = {pair: leads.get(pair, []) for pair in combinations(sorted(there), 2)}
                for (one, other), of_one in leads.items():
                    of_one += [before[one] - before[other], served[one] - served[other]]
                    assert max(of_one) - min(of_one) <= FAIRNESS, (one, other, of_one)
            case ("finish", int(index)) if held:
                with suppress(LeaseLostError):
                    finish(held.pop(index % len(held)))
            case ("release", int(index)) if held:
                with suppress(LeaseLostError), transaction() as session:
                    leases.release(session, held.pop(index % len(held)))
            case ("cancel", int(index)):
                tenant, walk_id = walks.pop(index % len(walks))
                with suppress(WalkEndedError), transaction() as session:
                    service.cancel(session, walk_id, owner=tenant)
                reconciler.maintain_fairness()
                leads = {pair: of_one for pair, of_one in leads.items() if tenant not in pair}
                walks.append((tenant, make(tenant)))
            case (str(tenant), int(frames), str(pacing)):
                walks.append((tenant, make(tenant, frames, pacing)))


def test_small_walks_do_not_starve_a_large_one(make: Make) -> None:
    """Twenty one-chunk walks are queued, and another one with each finished chunk."""
    make("ann", 48)
    make("bob", walks=20)
    order = list(serve(12, after=lambda: make("bob")))
    assert order.count("ann") == 6


def test_submitting_walks_one_by_one_gets_no_more_than_a_fair_share(make: Make) -> None:
    """A head start counts like any other chunk, so it cannot be had repeatedly."""
    make("ann", 80)
    make("bob")
    order = list(serve(12, after=lambda: "bob" in waiting() or make("bob")))
    assert order.count("ann") >= 5


def test_a_newcomer_gets_its_share_and_a_first_chunk_at_once(make: Make) -> None:
    for number in range(24):
        make(f"key {number}", walks=5)
    for _ in serve(30):
        pass
    make("new", 24)
    order = list(serve(75))
    places = [place for place, tenant in enumerate(order) if tenant == "new"]
    assert len(places) == 3
    assert places[0] <= 1


def test_a_newcomers_first_chunk_precedes_others_of_its_virtual_time(make: Make) -> None:
    for number in range(12):
        make(f"key {number}", 24)
    for _ in serve(15):
        pass
    make("new", 24)
    assert "new" in list(serve(2))


def test_a_tenant_with_an_empty_queue_is_remembered(make: Make) -> None:
    """Served at this virtual time already, it waits for the next one, even if its queue was empty."""
    for tenant in ("ann", "bob", "eve"):
        make(tenant, 80)
    make("joe")
    assert set(serve(4)) == {"ann", "bob", "eve", "joe"}
    begun = next(iter(serve(1)))
    make("joe")
    assert [begun, *serve(3)].count("joe") == 1


def test_after_a_cancellation_the_next_walk_does_not_wait_for_the_old_one(make: Make) -> None:
    old = make("ann", 80)
    make("ann", 24)
    make("bob", 80)
    with transaction() as session:
        service.cancel(session, old, owner="ann")
    reconciler.maintain_fairness()
    assert list(serve(6)).count("ann") >= 2
    late = make("ann", 80)
    with transaction() as session:
        service.cancel(session, late, owner="ann")
    make("ann", 8)
    assert "ann" in list(serve(3))


def test_idle_tenants_are_deleted(make: Make) -> None:
    make("ann")
    make("bob", 24)
    for _ in serve(4):
        pass
    make("bob", 24)
    for _ in serve(2):
        pass
    reconciler.maintain_fairness()
    with transaction() as session:
        assert list(session.scalars(select(Tenant.tenant))) == ["bob"]


def test_chunks_of_a_tenant_without_a_row_are_claimed(make: Make) -> None:
    walk_id = make("ann", 16)
    with transaction() as session:
        session.execute(text("TRUNCATE tenants"))
    reconciler.maintain_fairness()
    assert [claim().walk_id for _ in range(2)] == [walk_id, walk_id]


def test_a_locked_chunk_does_not_lead_to_equal_virtual_times(make: Make) -> None:
    """A change of a walk holds locks on its chunks while gaps are closed."""
    old = make("ann", 24)
    busy, last = make("ann", 24), make("ann", 24)
    make("bob", 80)
    with transaction() as session:
        service.cancel(session, old, owner="ann")
    with transaction() as session:
        lifecycle.lock_chunks(session, busy)
        reconciler.maintain_fairness()
    with transaction() as session:
        times = session.scalars(select(Chunk.virtual_time).where(Chunk.walk_id.in_([busy, last]))).all()
    assert len(set(times)) == len(times)
    reconciler.maintain_fairness()
    assert list(serve(6)).count("ann") == 3
