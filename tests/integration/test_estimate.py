"""Estimates are accurate: walks of many tenants, several workers, and a simulated clock."""

import heapq
import random
from collections.abc import Callable
from datetime import timedelta
from math import ceil
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from momalisa import description
from momalisa.db.models import Chunk, Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus
from momalisa.queue import catalog, estimate, leases, results, workers
from momalisa.queue.leases import Claim
from momalisa.settings import settings
from momalisa.walks import service
from tests.claims import claim_if_any, made_frames
from tests.dense_chunks import finish

pytestmark = pytest.mark.usefixtures("services")

WORKERS = 3


def test_estimates_are_within_a_half_of_the_actual_time(spec: Callable[..., WalkSpec]) -> None:
    """From the first preview of a walk on, in four of five polls, with mixed tenants and sizes."""
    ratios = [ratio for seed in (20, 21, 22) for ratio in told_to_true(spec, seed)]
    true = sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios)
    assert true >= 0.8 * len(ratios), (true, len(ratios), sorted(round(ratio, 2) for ratio in ratios))


def told_to_true(spec: Callable[..., WalkSpec], seed: int) -> list[float]:
    """Return the estimated time ÷ the actual time, at each poll of 40 walks of 10 tenants."""
    draw = random.Random(seed)  # noqa: S311 - the same each time
    coming = sorted(
        (
            draw.uniform(0, 30),
            f"tenant {number % 10}",
            {
                "frames": draw.choice([8, 16, 24, 48]),
                "pacing": draw.choice(["linear", "even"]),
                "steps": draw.choice([3, 6]),
            },
        )
        for number in range(40)
    )
    now, working, polls, ended = 0.0, list[Any](), dict[UUID, list[tuple[float, float]]](), dict[UUID, float]()
    while coming or working or not ended:
        with transaction() as session:
            for number in range(WORKERS):
                workers.report_alive(session, f"there:{number}", ChunkKind.RENDER, settings().model_name)
            while coming and coming[0][0] <= now:
                _, tenant, about = coming.pop(0)
                walk_id = UUID(int=draw.getrandbits(128), version=4)
                service.create(session, spec(**about), public=True, owner=tenant, walk_id=walk_id)
        while len(working) < WORKERS and (claimed := claim()):
            seconds = claimed.spec.steps * draw.uniform(0.9, 1.1)
            heapq.heappush(working, (now + seconds, str(claimed.walk_id), claimed.number, claimed, now))
        if not working:
            now = coming[0][0]
            continue
        if coming and coming[0][0] < working[0][0]:
            now = coming[0][0]
            continue
        now, *_, done, began = heapq.heappop(working)
        with transaction() as session:
            results.record_frames(session, done, made_frames(done))
            began_at = func.now() - timedelta(seconds=now - began)
            session.execute(update(Chunk).where(chunk(done)).values(claimed_at=began_at))
            for *_, held, since in working:
                session.execute(
                    update(Chunk).where(chunk(held)).values(claimed_at=func.now() - timedelta(seconds=now - since))
                )
        with transaction() as session:
            walk = session.get_one(Walk, done.walk_id)
            if walk.frames_done == walk.frames_total:
                ended[walk.id] = now
            for walk_id in [done.walk_id, *draw.sample(sorted(polls), min(len(polls), 2))]:
                seen = estimate.estimate(session, session.get_one(Walk, walk_id))
                if seen.eta_seconds is not None:
                    polls.setdefault(walk_id, []).append((now, seen.eta_seconds))
    assert len(ended) == 40
    return [
        estimated / max(ended[walk_id] - at, 1)
        for walk_id, found in polls.items()
        for at, estimated in found
        if at < ended[walk_id]
    ]


def render_in_ten_seconds(session: Session, one_chunk: WalkSpec) -> None:
    """Record that the only worker rendered a chunk in ten seconds."""
    workers.report_alive(session, "there:1", ChunkKind.RENDER, settings().model_name)
    service.create(session, one_chunk, public=True, owner="before")
    done = leases.claim(session, ChunkKind.RENDER, "there:1")
    assert done
    results.record_frames(session, done, made_frames(done))
    began_at = Chunk.finished_at - timedelta(seconds=10)
    session.execute(update(Chunk).where(chunk(done)).values(claimed_at=began_at))


def test_the_estimate_counts_the_chunks_of_another_tenant(spec: Callable[..., WalkSpec]) -> None:
    """And not its frames: another tenant's small walk is soon done."""
    with transaction() as session:
        render_in_ten_seconds(session, spec(frames=8, pacing="linear"))
        service.create(session, spec(frames=8, pacing="linear"), public=True, owner="small")
        large = service.create(session, spec(frames=80, pacing="linear"), public=True, owner="large")
        assert estimate.estimate(session, large).eta_seconds == 10 * (10 + 1)


def test_dense_walks_are_expected_to_take_less_only_with_a_model_that_is_dense(
    spec: Callable[..., WalkSpec],
) -> None:
    with transaction() as session:  # in which PostgreSQL's now() is one moment

        def estimated(*, dense: bool) -> list[int | None]:
            catalog.report(session, description.of_settings().model_copy(update={"dense": dense}))
            estimate._cache.clear()
            return [estimate.estimate(session, walk).eta_seconds for walk in (ordered, other)]

        render_in_ten_seconds(session, spec(frames=8, pacing="linear"))
        other = service.create(session, spec(frames=96, pacing="linear"), public=True, owner="other")
        ordered = service.create(session, spec(frames=96, exact=False), public=True, owner="ordered")
        assert estimated(dense=False) == [10 * (12 + 11.5)] * 2  # half a chunk of the other is behind it
        assert estimated(dense=True) == [10 * (8 + 7.5), 10 * (12 + 8)]  # 48 frames, and 48 of one step of three


def test_interpolated_chunks_are_expected_to_take_what_decoding_takes(spec: Callable[..., WalkSpec]) -> None:
    with transaction() as session:
        workers.report_alive(session, "there:1", ChunkKind.RENDER, settings().model_name)
        catalog.report(session, description.of_settings().model_copy(update={"dense": True}))
        ordered = service.create(session, spec(frames=480, steps=20, exact=False), public=True, owner="ann").id
    while (claimed := claim_if_any()) and not claimed.interpolated:
        finish(claimed)
    assert claimed
    with transaction() as session:
        leases.release(session, claimed)
        done = update(Chunk).where(Chunk.status == ChunkStatus.DONE)
        session.execute(done.values(claimed_at=Chunk.finished_at - timedelta(seconds=60)))
        estimate._cache.clear()
        walk = session.get_one(Walk, ordered)
        batches = ceil((480 - walk.frames_done) / 20 / 8)
        queued = session.scalar(select(func.count()).where(Chunk.status == ChunkStatus.QUEUED))
        assert queued
        assert estimate.estimate(session, walk).eta_seconds == pytest.approx(batches * 60, abs=1)
        assert queued > 3 * batches


def test_setting_the_clock_during_chunks_does_not_change_estimates(
    spec: Callable[..., WalkSpec],
) -> None:
    with transaction() as session:  # in which PostgreSQL's now() is one moment

        def estimated() -> int | None:
            estimate._cache.clear()
            return estimate.estimate(session, late).eta_seconds

        workers.report_alive(session, "there:1", ChunkKind.RENDER, settings().model_name)
        service.create(session, spec(frames=40, pacing="linear"), public=True, owner="ann")
        late = service.create(session, spec(frames=16, pacing="linear"), public=True, owner="bob")
        for _ in range(3):
            done = leases.claim(session, ChunkKind.RENDER, "there:1")
            assert done
            results.record_frames(session, done, made_frames(done))
            began_at = Chunk.finished_at - timedelta(seconds=10)
            session.execute(update(Chunk).where(chunk(done)).values(claimed_at=began_at))
        held = leases.claim(session, ChunkKind.RENDER, "there:1")
        assert done
        assert held
        before = estimated()
        began_at = Chunk.finished_at - timedelta(hours=1)  # the clock was set forward during the last one
        session.execute(update(Chunk).where(chunk(done)).values(claimed_at=began_at))
        assert estimated() == before
        later = func.now() + timedelta(hours=1)  # and back during the one that is leased
        session.execute(update(Chunk).where(chunk(held)).values(claimed_at=later))
        assert estimated() == before


def claim() -> Claim | None:
    with transaction() as session:
        return leases.claim(session, ChunkKind.RENDER, "there:1")


def chunk(claimed: Claim) -> Any:
    return (Chunk.walk_id == claimed.walk_id) & (Chunk.number == claimed.number)


def test_the_queue_position_is_exact(spec: Callable[..., WalkSpec]) -> None:
    with transaction() as session:
        for number in range(60):
            service.create(session, spec(frames=240), public=True, owner=f"tenant {number % 2}")
        last = service.create(session, spec(frames=8), public=True, owner="tenant 0")
        assert estimate.estimate(session, last).queue_position == 1800
