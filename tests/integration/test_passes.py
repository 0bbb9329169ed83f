"""Even pacing in PostgreSQL: passes follow each other with any workers, and the queue stays fair."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, WalkStatus
from momalisa.errors import LeaseLostError
from momalisa.queue import estimate, leases, results, stats
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import Ready
from momalisa.queue.results import UploadedFrame
from momalisa.settings import settings
from momalisa.storage.bucket import StoredObject
from momalisa.walks import queries, service
from tests.claims import claim, claim_if_any, made_frames
from tests.conftest import until

pytestmark = pytest.mark.usefixtures("services")

Make = Callable[..., UUID]


@pytest.fixture
def make(spec: Callable[..., WalkSpec]) -> Make:
    def make_walk(owner: str = "ann", **changes: Any) -> UUID:
        with transaction() as session:
            ordered = spec(**{"frames": 48, "pacing": "even", **changes})
            return service.create(session, ordered, public=True, owner=owner).id

    return make_walk


def nothing_to_claim() -> bool:
    with transaction() as session:
        return stats.count_ready(session) == {}


def looks(position: float) -> bytes:
    """The thumbnail of a picture that only changes by a jump at 0.3."""
    return bytes([round(255 * min(max((position - 0.29) * 50, 0), 1))] * 12)


def finish(claimed: Claim) -> Ready | None:
    stored = StoredObject("w", 9, "AAAAAA==")
    made = [UploadedFrame(frame.position, stored, looks(frame.position), "") for frame in claimed.frames]
    with transaction() as session:
        return results.record_frames(session, claimed, made)


def walk(walk_id: UUID) -> Walk:
    with transaction() as session:
        return queries.get(session, walk_id, viewer=None)


def positions(walk_id: UUID) -> list[float]:
    return [frame.position for frame in walk(walk_id).frames]


def test_the_last_frame_of_a_pass_enqueues_the_next_pass(make: Make) -> None:
    walk_id = make()
    assert walk(walk_id).frames_total == 48
    assert positions(walk_id) == pytest.approx([index / 15 for index in range(16)], abs=1 / 4096)
    assert finish(claim()) is None
    assert finish(claim()) == Ready(ChunkKind.RENDER, 2, settings().model_name)
    probe = positions(walk_id)[:16:15]
    assert len(positions(walk_id)) == 32
    assert set(probe) <= set(positions(walk_id))
    assert [finish(claim()) for _ in range(2)] == [None, Ready(ChunkKind.RENDER, 1, settings().model_name)]
    assert [finish(claim()) for _ in range(2)] == [
        Ready(ChunkKind.RENDER, 1, settings().model_name),
        Ready(ChunkKind.ASSEMBLE),
    ]
    assert (walk(walk_id).status, walk(walk_id).frames_done) == (WalkStatus.ASSEMBLING, 48)
    assert len(claim(ChunkKind.ASSEMBLE).frames) == 48


def test_frames_are_placed_where_the_picture_changes(make: Make) -> None:
    walk_id = make()
    until(lambda: finish(claim()) == Ready(ChunkKind.ASSEMBLE), pause=0)
    assert sum(0.28 < position < 0.32 for position in positions(walk_id)) > 20


def test_pacing_does_not_depend_on_the_order_of_workers(make: Make) -> None:
    one, other = make(), make()
    held: list[Claim] = []
    deadline = time.monotonic() + 60
    while not (walk(one).status == walk(other).status == WalkStatus.ASSEMBLING):
        assert time.monotonic() < deadline
        found = claim_if_any()
        if found is not None:
            held.append(found)
        if found is None or len(held) == 3:
            finish(held.pop())
    assert positions(one) == positions(other)


def test_workers_that_end_a_pass_concurrently_plan_the_next_one_once(make: Make) -> None:
    walks = [make(frames=96) for _ in range(5)]
    for count in (4, 4, 2, 2):  # chunks of each walk in a pass
        claims = [claim() for _ in range(5 * count)]
        with ThreadPoolExecutor(10) as pool:
            due = list(pool.map(finish, claims))
        assert len([one for one in due if one]) == 5
    assert {len(positions(walk_id)) for walk_id in walks} == {96}
    assert {walk(walk_id).status for walk_id in walks} == {WalkStatus.ASSEMBLING}


def test_a_canceled_walk_gets_no_further_pass(make: Make) -> None:
    walk_id = make(frames=24)
    with transaction() as session:
        last = leases.claim(session, ChunkKind.RENDER, "here")
        assert last
        results.record_frames(session, last, made_frames(last))
    with transaction() as session:
        service.cancel(session, walk_id, owner="ann")
    assert nothing_to_claim()
    assert len(positions(walk_id)) == 16


def test_a_cancellation_at_the_end_of_a_pass_leaves_nothing_behind(make: Make) -> None:
    for _ in range(10):
        walk_id, last = make(frames=24), claim()

        def cancel(walk_id: UUID = walk_id) -> None:
            with transaction() as session:
                service.cancel(session, walk_id, owner="ann")

        def end(last: Claim = last) -> None:
            with suppress(LeaseLostError):
                finish(last)

        with ThreadPoolExecutor(2) as pool:
            for future in (pool.submit(end), pool.submit(cancel)):
                future.result()
        assert walk(walk_id).status == WalkStatus.CANCELED
        assert nothing_to_claim()


def test_a_walk_of_several_passes_alternates_with_others(make: Make) -> None:
    """It neither waits for everything that others have queued, nor overtakes them with each pass."""
    for _ in range(3):
        make(owner="ann", pacing="linear", frames=80)
    even = make(owner="bob", frames=48)
    for _ in range(2):
        finish(claim())  # the first chunk of each owner
    order: list[bool] = []
    while walk(even).status != WalkStatus.ASSEMBLING:
        assert len(order) < 100
        claimed = claim()
        order.append(claimed.walk_id == even)
        finish(claimed)
    assert order.count(True) == 5
    assert 4 <= order.count(False) <= 7
    assert all(not (a and b) or not c for a, b, c in zip(order, order[1:], order[2:], strict=False))


def test_unplanned_passes_count_in_the_estimate(make: Make) -> None:
    walk_id = make()
    finish(claim())
    with transaction() as session:
        even = estimate.estimate(session, queries.get(session, walk_id, viewer=None))
    with transaction() as session:
        service.cancel(session, walk_id, owner="ann")
    other = make(pacing="linear")
    finish(claim())
    with transaction() as session:
        linear = estimate.estimate(session, queries.get(session, other, viewer=None))
    assert even.eta_seconds is not None
    assert even.eta_seconds == pytest.approx(linear.eta_seconds, abs=1)


def test_every_chunk_of_later_passes_is_a_whole_batch(make: Make) -> None:
    make(frames=48)
    sizes = []
    for _ in range(6):
        claimed = claim()
        sizes.append(len(claimed.frames))
        finish(claimed)
    assert sizes == [settings().batch_size] * 6


def test_a_walk_keeps_the_batch_size_that_it_was_created_with(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is restarted with another BATCH_SIZE between two passes."""
    before = settings().batch_size
    make(frames=48)
    sizes = []
    for _ in range(6):
        claimed = claim()
        assert claimed.batch_size == before
        sizes.append(len(claimed.frames))
        finish(claimed)
        monkeypatch.setenv("BATCH_SIZE", "5")
        settings.cache_clear()
    assert sizes == [before] * 6
    assert claim(ChunkKind.ASSEMBLE)


@pytest.mark.parametrize("loop", ["none", "pingpong", "closed"])
def test_walks_with_many_stops_have_a_frame_at_every_stop(make: Make, loop: str) -> None:
    walk_id = make(prompts=("a", "b", "c", "d"), frames=40, loop=loop)
    until(lambda: finish(claim()) == Ready(ChunkKind.ASSEMBLE), pause=0)
    found = positions(walk_id)
    legs = 4 if loop == "closed" else 3
    assert {stop / legs for stop in range(4)} <= set(found)
    assert len(found) == len(set(found)) == 40
    assert all(a < b for a, b in pairwise(found))
    assert (1 in found) == (loop != "closed")
