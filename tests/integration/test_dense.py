"""Dense walks in PostgreSQL: denoised passes, then one that is interpolated between them, by any workers."""

import os
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from momalisa.db.models import Chunk, Walk
from momalisa.db.session import transaction
from momalisa.domain.pins import Batch, Pins
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, ChunkStatus, Made, WalkStatus
from momalisa.errors import KeysLostError, LeaseLostError
from momalisa.maintenance import reconciler
from momalisa.queue import admin, fairness, lifecycle, results
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import Ready
from momalisa.settings import settings
from momalisa.walks import queries, service
from tests.claims import claim, claim_if_any
from tests.dense_chunks import finish, finish_all
from worker import runner
from worker.lease import Lease
from worker.process.heartbeat import process_name
from worker.process.worker import Worker
from worker.recording import Record

pytestmark = pytest.mark.usefixtures("services")

Make = Callable[..., UUID]

ASSEMBLE = Ready(ChunkKind.ASSEMBLE)


@pytest.fixture
def make(spec: Callable[..., WalkSpec]) -> Make:
    def make_walk(source: Walk | None = None, pins: Pins | None = None, **changes: Any) -> UUID:
        with transaction() as session:
            ordered = spec(**{"frames": 96, "pacing": "even", "exact": False, **changes})
            return service.create(session, ordered, public=True, owner="ann", source=source, pins=pins).id

    return make_walk


def walk(walk_id: UUID) -> Walk:
    with transaction() as session:
        return queries.get(session, walk_id, viewer=None)


def statuses(walk_id: UUID) -> list[ChunkStatus]:
    with transaction() as session:
        chunks = select(Chunk.status).where(Chunk.walk_id == walk_id, Chunk.kind == ChunkKind.RENDER)
        return list(session.scalars(chunks.order_by(Chunk.number)))


def test_the_last_pass_is_interpolated_between_all_frames_of_the_passes_before(make: Make) -> None:
    walk_id = make()
    claims = finish_all()
    denoised = [claimed for claimed in claims if not claimed.interpolated]
    last = claims[len(denoised) :]
    assert all(claimed.interpolated for claimed in last)
    keys = sorted(frame.position for claimed in denoised for frame in claimed.frames)
    for claimed in last:
        assert [key.position for key in claimed.keys] == keys
        assert claimed.keys[0].content_hash == "hash of 0.0"
    for claimed in denoised:  # a check never depends on which chunk of its own pass was first
        assert not {key.position for key in claimed.keys} & {frame.position for frame in claimed.frames}
    assert denoised[0].keys == ()
    found = walk(walk_id)
    assert (found.status, found.frames_done) == (WalkStatus.ASSEMBLING, 96)
    made = [frame.made for frame in found.frames]
    assert made.count(Made.DENOISED) == len(keys) < 50
    assert made[0] == made[-1] == Made.DENOISED
    assert all((frame.error is not None) == (frame.made == Made.INTERPOLATED) for frame in found.frames)


def test_where_interpolation_is_off_every_frame_is_denoised(make: Make) -> None:
    walk_id = make()
    while claimed := claim_if_any():
        assert not claimed.interpolated
        finish(claimed, error=200.0)
    assert {frame.made for frame in walk(walk_id).frames} == {Made.DENOISED}


def test_an_exact_walk_denoises_every_frame(make: Make) -> None:
    make(exact=True)
    assert not any(claimed.interpolated for claimed in finish_all())


PINS = Pins(
    batches=[
        Batch(size=2, positions=[0, 1]),
        Batch(size=2, positions=[0.5]),
        Batch(size=2, positions=[0.25, 0.75], interpolated=True),
        Batch(size=2, positions=[0.125], interpolated=True),
    ]
)


def test_pinned_chunks_that_are_interpolated_wait_for_the_others(make: Make) -> None:
    walk_id = make(frames=6, pins=PINS)
    waiting = [ChunkStatus.WAITING] * 2
    assert statuses(walk_id) == [ChunkStatus.QUEUED] * 2 + waiting
    first, second = claim(), claim()
    assert claim_if_any() is None
    assert finish(second) is None
    assert claim_if_any() is None
    assert finish(first) == Ready(ChunkKind.RENDER, 2, settings().model_name)
    third = claim()
    assert third.interpolated
    assert [key.position for key in third.keys] == [0, 0.5, 1]
    finish(third)
    last = claim()
    assert finish(last) == ASSEMBLE
    assembly = claim(ChunkKind.ASSEMBLE)
    assert assembly.pins
    assert assembly.pins.batches == PINS.batches


def test_a_pinned_walk_that_is_to_be_exact_denoises_what_was_interpolated(make: Make) -> None:
    walk_id = make(frames=6, pins=PINS, exact=True)
    assert statuses(walk_id) == [ChunkStatus.QUEUED] * 4
    assert not any(claimed.interpolated for claimed in finish_all())
    assert [frame.position for frame in walk(walk_id).frames] == sorted(PINS.positions)


def test_a_walk_that_ends_drops_chunks_that_wait_and_a_retry_lets_them_wait_again(make: Make) -> None:
    walk_id = make(frames=6, pins=PINS)
    with transaction() as session:
        lifecycle.fail_walk(session, walk_id, ChunkKind.RENDER)
    assert set(statuses(walk_id)) == {ChunkStatus.DROPPED}
    with transaction() as session:
        admin.retry(session, walk_id)
    assert statuses(walk_id) == [ChunkStatus.QUEUED] * 2 + [ChunkStatus.WAITING] * 2
    finish_all()
    assert walk(walk_id).status == WalkStatus.ASSEMBLING


def test_a_lost_frame_is_interpolated_again_only_once_those_around_it_are_there(make: Make) -> None:
    walk_id = make(frames=6, pins=PINS)
    finish_all()
    assembly = claim(ChunkKind.ASSEMBLE)
    with transaction() as session:
        assert results.requeue_frames(session, assembly, [0.25, 0.5])
    assert statuses(walk_id) == [ChunkStatus.DONE, ChunkStatus.QUEUED, ChunkStatus.WAITING, ChunkStatus.DONE]
    claims = finish_all()
    assert [claimed.interpolated for claimed in claims] == [False, True]
    assert [key.position for key in claims[1].keys] == [0, 0.5, 1]
    assert walk(walk_id).status == WalkStatus.ASSEMBLING


def test_frames_that_were_lost_are_made_again_before_those_that_are_compared_with_them(make: Make) -> None:
    places = [index / 64 for index in range(65)]
    first, between, last = places[::2], places[1:2], places[3::2]
    pins = Pins(
        batches=[
            Batch(size=32, positions=first),
            Batch(size=32, positions=between, interpolated=True),
            Batch(size=32, positions=last),
        ]
    )
    walk_id = make(frames=65, pins=pins)
    finish_all()
    assembly = claim(ChunkKind.ASSEMBLE)
    with transaction() as session:
        assert results.requeue_frames(session, assembly, [first[0], last[0]])
    assert statuses(walk_id) == [ChunkStatus.QUEUED, ChunkStatus.DONE, ChunkStatus.WAITING]
    again, compared = finish_all()
    assert [again.number, compared.number] == [0, 2]
    assert [(key.position, key.stored.name) for key in compared.keys] == [(at, f"w/{at}.png") for at in first]


def lose(claimed: Claim, *positions: float) -> Ready | None:
    with transaction() as session:
        return results.requeue_keys(session, claimed, positions)


def made(walk_id: UUID) -> list[tuple[float, Made | None, float | None]]:
    return [(frame.position, frame.made, frame.error) for frame in walk(walk_id).frames]


def test_a_walk_whose_keys_are_lost_at_any_time_is_planned_and_made_like_one_that_loses_none(make: Make) -> None:
    calm = make()
    finish_all()
    stormy = make()
    lost = set[int]()
    while claimed := claim_if_any():
        if claimed.keys and claimed.number not in lost:
            lost.add(claimed.number)
            keys = claimed.keys[0].position, claimed.keys[-1].position
            assert lose(claimed, *keys) == Ready(ChunkKind.RENDER, 1, claimed.model)
            again = claim()
            assert [frame.position for frame in again.frames if frame.missing] == list(keys)
            assert claim_if_any() is None, "the others wait for these"
            finish(again)
            with transaction() as session:  # so that losing many does not fail the walk
                session.execute(update(Chunk).values(attempts=0))
        else:
            finish(claimed)
    assert len(lost) > 3
    assert made(stormy) == made(calm)
    assert walk(stormy).frames_done == 96


def test_workers_with_chunks_of_later_passes_lose_their_lease_when_a_key_is_lost(make: Make) -> None:
    walk_id = make()
    while not (claimed := claim_if_any()) or not claimed.interpolated:
        assert claimed
        finish(claimed)
    other = claim()
    assert lose(claimed, 0.0)
    for late in (claimed, other):
        with pytest.raises(LeaseLostError):
            finish(late)
    with pytest.raises(LeaseLostError):
        lose(other, 0.0)
    repeated = [each for each in finish_all() if each.number in {claimed.number, other.number}]
    assert [each.attempt for each in repeated] == [1, 1], "they have not failed"
    assert walk(walk_id).status == WalkStatus.ASSEMBLING


def test_a_worker_that_cannot_read_keys_has_not_succeeded_and_others_come_before_it(make: Make) -> None:
    make(frames=6, pins=PINS)
    for _ in range(2):
        claimed = claim()
        finish(claimed)
    worker = Worker()
    worker.watchdog.start()
    worker.failed_walks.add(UUID(int=1))

    def misread(lease: Lease) -> Record:
        raise KeysLostError([lease.claim.keys[0].position])

    assert runner._claim_and_process(worker, ChunkKind.RENDER, misread)
    assert worker.failed_walks == {UUID(int=1)}
    with transaction() as session:
        failed_on = session.scalars(select(Chunk.failed_on).where(Chunk.status == ChunkStatus.WAITING)).all()
    assert sorted(failed_on) == [[], [process_name(os.getppid())]]


def test_chunks_that_waited_do_not_set_the_clock_of_others_back(make: Make, spec: Callable[..., WalkSpec]) -> None:
    make(frames=6, pins=PINS)
    with transaction() as session:
        service.create(session, spec(frames=80, pacing="linear"), public=True, owner="bob")
    while not (claimed := claim_if_any()) or not claimed.interpolated:
        assert claimed
        finish(claimed)
    lose(claimed, 0.0)
    again = claim()
    for _ in range(6):
        theirs = claim()
        finish(theirs)
    finish(again)
    with transaction() as session:
        next_of_bob = session.scalar(
            select(func.min(Chunk.virtual_time)).where(Chunk.tenant == "bob", Chunk.status == ChunkStatus.QUEUED)
        )
        assert fairness.next_virtual_times(session, "carol", again.model, 1).first == next_of_bob


def test_a_tenant_alternates_with_chunks_that_waited(make: Make, spec: Callable[..., WalkSpec]) -> None:
    make(frames=6, pins=PINS)
    while (claimed := claim_if_any()) and claimed.number < 1:
        finish(claimed)
    assert claimed
    finish(claimed)  # the last one that others wait for; two of them are queued now
    with transaction() as session:
        service.create(session, spec(frames=16, pacing="linear"), public=True, owner="bob")
    claims = [claim_if_any() for _ in range(4)]
    assert [claimed.tenant for claimed in claims if claimed][:2].count("bob") == 1


def test_a_walk_whose_keys_are_lost_each_time_fails(make: Make) -> None:
    walk_id = make(frames=6, pins=PINS)
    for _ in range(settings().max_attempts):
        for _ in range(2):
            if (claimed := claim_if_any()) and not claimed.interpolated:
                finish(claimed)
        between = claimed if claimed and claimed.interpolated else claim_if_any()
        assert between
        ready = lose(between, 0.0)
    assert ready is None
    found = walk(walk_id)
    assert (found.status, found.error_code) == (WalkStatus.FAILED, "render_failed")
    assert set(statuses(walk_id)) == {ChunkStatus.DONE, ChunkStatus.DROPPED}


def test_a_chunk_that_was_denoised_instead_is_pinned_so(make: Make) -> None:
    walk_id = make(frames=6, pins=PINS)
    while claimed := claim_if_any():
        finish(claimed, denoised=claimed.number == 2)
    found = walk(walk_id)
    assert [frame.made for frame in found.frames].count(Made.INTERPOLATED) == 1
    assert all(frame.expected_error is None for frame in found.frames if frame.made == Made.DENOISED)
    assembly = claim(ChunkKind.ASSEMBLE)
    assert assembly.pins
    assert [batch.interpolated for batch in assembly.pins.batches] == [False, False, False, True]
    assert assembly.pins.positions == PINS.positions


def test_the_reconciler_queues_chunks_that_wait_for_nothing_more(make: Make) -> None:
    """A worker of an earlier release recorded the frames that they waited for."""
    walk_id = make(frames=6, pins=PINS)
    for _ in range(2):
        claimed = claim()
        reconciler.reclaim_expired()
        assert statuses(walk_id)[2:] == [ChunkStatus.WAITING] * 2
        finish(claimed)
    with transaction() as session:
        session.execute(update(Chunk).where(Chunk.interpolated).values(status=ChunkStatus.WAITING))
    reconciler.reclaim_expired()
    assert statuses(walk_id)[2:] == [ChunkStatus.QUEUED] * 2


def test_more_frames_keep_those_that_were_interpolated_between_the_same_ones(make: Make) -> None:
    first = make()
    before = finish_all()
    second = make(source=walk(first), frames=192)
    kept = statuses(second)
    assert kept == [ChunkStatus.QUEUED] * sum(not each.interpolated for each in before) + [ChunkStatus.WAITING] * (
        len(kept) - sum(not each.interpolated for each in before)
    )
    after = finish_all()
    keys_of = {
        frame.position: [key.position for key in claimed.keys]
        for claimed in before
        for frame in claimed.frames
        if claimed.interpolated
    }
    again = {frame.position: claimed for claimed in after for frame in claimed.frames}
    for position, keys in keys_of.items():
        assert again[position].interpolated
        assert [key.position for key in again[position].keys] == keys
    assert walk(second).frames_done == 192


def test_an_exact_walk_keeps_only_what_was_denoised(make: Make) -> None:
    first = make()
    before = finish_all()
    second = make(source=walk(first), exact=True)
    assert not any(claimed.interpolated for claimed in finish_all())
    there = {frame.position for frame in walk(second).frames}
    assert {frame.position for claimed in before if not claimed.interpolated for frame in claimed.frames} <= there


def test_the_last_leg_of_a_closed_walk_is_interpolated_towards_its_first_frame(make: Make) -> None:
    make(prompts=("a", "b"), loop="closed", frames=160)
    last = [claimed for claimed in finish_all() if claimed.interpolated]
    assert {claimed.keys[-1].position for claimed in last} == {1.0}
    assert {claimed.keys[-1].stored for claimed in last} == {last[0].keys[0].stored}
    assert max(frame.position for claimed in last for frame in claimed.frames) > 0.9
