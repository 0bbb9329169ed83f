"""The time that is told is true: walks of many parties, several workers, and a clock that is simulated."""

import heapq
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, update

from momalisa import chunks, jobs, outlook, results, workers
from momalisa.chunks import Claim
from momalisa.database import transaction
from momalisa.settings import settings
from momalisa.spec import WalkSpec
from momalisa.tables import Chunk, ChunkKind, Walk
from tests.conftest import made_frames

pytestmark = pytest.mark.usefixtures("services")

WORKERS = 3


def test_the_time_that_is_told_is_true_within_a_half(spec: Callable[..., WalkSpec]) -> None:
    """From the first preview of a walk on, in four of five polls, though parties and sizes of walks are mixed."""
    draw = random.Random(20)  # noqa: S311 - the same each time
    coming = sorted(
        (
            draw.uniform(0, 30),
            f"party {number % 10}",
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
                workers.here(session, f"there:{number}", ChunkKind.RENDER, settings().model_name)
            while coming and coming[0][0] <= now:
                _, party, about = coming.pop(0)
                jobs.create(session, spec(**about), public=True, owner=party)
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
            results.frames_done(session, done, made_frames(done))
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
                seen = outlook.look(session, session.get_one(Walk, walk_id))
                if seen.eta_seconds is not None:
                    polls.setdefault(walk_id, []).append((now, seen.eta_seconds))
    ratios = [
        told / max(ended[walk_id] - at, 1)
        for walk_id, found in polls.items()
        for at, told in found
        if at < ended[walk_id]
    ]
    true = sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios)
    assert len(ended) == 40
    assert true >= 0.8 * len(ratios), (true, len(ratios), sorted(round(ratio, 2) for ratio in ratios))


def test_another_party_is_waited_for_with_the_chunks_that_it_has(spec: Callable[..., WalkSpec]) -> None:
    """Not with the frames: a small walk of somebody else is soon over."""
    with transaction() as session:
        workers.here(session, "there:1", ChunkKind.RENDER, settings().model_name)
        jobs.create(session, spec(frames=8, pacing="linear"), public=True, owner="before")
        done = chunks.claim(session, ChunkKind.RENDER, "there:1")
        assert done
        results.frames_done(session, done, made_frames(done))
        began_at = Chunk.finished_at - timedelta(seconds=10)
        session.execute(update(Chunk).where(chunk(done)).values(claimed_at=began_at))
        jobs.create(session, spec(frames=8, pacing="linear"), public=True, owner="small")
        large = jobs.create(session, spec(frames=80, pacing="linear"), public=True, owner="large")
        assert outlook.look(session, large).eta_seconds == 10 * (10 + 1)


def claim() -> Claim | None:
    with transaction() as session:
        return chunks.claim(session, ChunkKind.RENDER, "there:1")


def chunk(claimed: Claim) -> Any:
    return (Chunk.walk_id == claimed.walk_id) & (Chunk.number == claimed.number)


def test_a_place_in_the_queue_is_exact(spec: Callable[..., WalkSpec]) -> None:
    with transaction() as session:
        for number in range(60):
            jobs.create(session, spec(frames=240), public=True, owner=f"party {number % 2}")
        last = jobs.create(session, spec(frames=8), public=True, owner="party 0")
        assert outlook.look(session, last).queue_position == 1800
