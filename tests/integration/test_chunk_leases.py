"""The life of chunks in PostgreSQL: who claims which, and what happens when workers die, return late or fail."""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from momalisa.db.models import Chunk, Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ArtifactKind, ChunkKind, ChunkStatus, WalkStatus
from momalisa.errors import LeaseLostError, WalkEndedError
from momalisa.queue import leases, reclaim, results, stats
from momalisa.queue.leases import Claim
from momalisa.queue.lifecycle import Ready
from momalisa.queue.reclaim import ExpiredLease, LeaseMonitor, ObservedLease
from momalisa.queue.results import UploadedArtifact
from momalisa.settings import settings
from momalisa.storage.bucket import StoredObject
from momalisa.walks import queries, service
from tests.claims import claim, claim_if_any, finish, made_frames
from tests.conftest import until

pytestmark = pytest.mark.usefixtures("services")

MakeSpec = Callable[..., WalkSpec]


@pytest.fixture
def make(spec: MakeSpec) -> Callable[..., UUID]:
    def make_walk(frames: int = 20, owner: str = "ann") -> UUID:
        with transaction() as session:
            return service.create(session, spec(frames=frames), public=True, owner=owner).id

    return make_walk


def nothing_to_claim(kind: ChunkKind = ChunkKind.RENDER) -> bool:
    return claim_if_any(kind) is None


def make_due() -> None:
    with transaction() as session:
        session.execute(update(Chunk).values(scheduled_at=func.now() - timedelta(seconds=1)))


def held() -> list[ObservedLease]:
    with transaction() as session:
        return reclaim.current_leases(session)


def reclaim_leases(*silent: ObservedLease) -> int:
    """Reclaim leases, as if their workers had been silent for long; all of them by default."""
    return reclaim.reclaim([ExpiredLease(lease, 1) for lease in silent or held()])


def walk(walk_id: UUID) -> Walk:
    with transaction() as session:
        return queries.get(session, walk_id, viewer=None)


def chunk(claimed: Claim) -> Chunk:
    with transaction() as session:
        return session.get_one(Chunk, (claimed.walk_id, claimed.number))


def artifact(kind: ArtifactKind) -> UploadedArtifact:
    return UploadedArtifact(kind, StoredObject(kind.value, 1, "AAAAAA=="), 128, 128)


def test_a_walk_goes_from_queued_to_succeeded(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=20)
    assert walk(walk_id).status == WalkStatus.QUEUED
    first = claim()
    assert (walk(walk_id).status, walk(walk_id).frames_done) == (WalkStatus.RUNNING, 0)
    assert not finish(first)
    assert walk(walk_id).frames_done == 8
    assert not finish(claim())
    assert finish(claim())
    assert (walk(walk_id).status, walk(walk_id).frames_done) == (WalkStatus.ASSEMBLING, 20)
    assembly = claim(ChunkKind.ASSEMBLE)
    assert [frame.stored is not None for frame in assembly.frames] == [True] * 20
    with transaction() as session:
        results.complete_walk(session, assembly, [artifact(kind) for kind in ArtifactKind])
    done = walk(walk_id)
    assert (done.status, len(done.artifacts)) == (WalkStatus.SUCCEEDED, len(ArtifactKind))
    assert done.created_at <= (done.started_at or 0) <= (done.finished_at or 0)  # type: ignore[operator]
    assert nothing_to_claim()
    assert nothing_to_claim(ChunkKind.ASSEMBLE)


def test_the_revision_grows_with_every_change_that_a_client_can_see(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=8)
    seen = [walk(walk_id).revision]
    claimed = claim()
    seen.append(walk(walk_id).revision)
    finish(claimed)
    seen.append(walk(walk_id).revision)
    with transaction() as session:
        results.complete_walk(session, claim(ChunkKind.ASSEMBLE), [artifact(ArtifactKind.GIF)])
    seen.append(walk(walk_id).revision)
    assert seen == sorted(set(seen))


def test_the_walks_of_an_owner_are_claimed_one_after_the_other(make: Callable[..., UUID]) -> None:
    walks = [make(), make()]
    order = [claim() for _ in range(6)]
    assert [(claimed.walk_id, claimed.number) for claimed in order] == [(w, n) for w in walks for n in range(3)]


def test_owners_alternate(make: Callable[..., UUID]) -> None:
    for _ in range(5):
        make(frames=40, owner="ann")
    small = make(frames=16, owner="bob")
    order = [claim() for _ in range(27)]
    firsts = [claimed.walk_id for claimed in order if claimed.number == 0]
    assert firsts.index(small) <= 1
    later = [claimed.walk_id for claimed in order if claimed.number > 0]
    assert later.index(small) <= 1


def test_an_owner_who_comes_later_does_not_wait_for_earlier_turns(make: Callable[..., UUID]) -> None:
    for _ in range(3):
        make(frames=40, owner="ann")
    for _ in range(8):
        finish(claim())
    late = make(frames=16, owner="bob")
    assert late in {claim().walk_id for _ in range(3)}


def test_concurrent_claims_never_share_a_chunk(make: Callable[..., UUID]) -> None:
    for _ in range(4):
        make(frames=40)

    def claim_one(_: int) -> tuple[UUID, int]:
        claimed = claim()
        return claimed.walk_id, claimed.number

    with ThreadPoolExecutor(10) as pool:
        got = list(pool.map(claim_one, range(20)))
    assert len(set(got)) == 20
    assert nothing_to_claim()


def test_a_chunk_with_an_expired_lease_is_claimed_again_and_the_late_worker_is_refused(
    make: Callable[..., UUID],
) -> None:
    make(frames=8)
    zombie = claim()
    assert reclaim_leases() == 1
    fresh = claim()
    assert (fresh.number, fresh.attempt) == (zombie.number, 2)
    with pytest.raises(LeaseLostError), transaction() as session:
        leases.heartbeat(session, zombie)
    with pytest.raises(LeaseLostError):
        finish(zombie)
    assert finish(fresh)
    with pytest.raises(LeaseLostError):
        finish(fresh)
    assert walk(fresh.walk_id).frames_done == 8


def test_a_heartbeat_keeps_the_lease(make: Callable[..., UUID]) -> None:
    make(frames=8)
    claimed = claim()
    silent = held()
    with transaction() as session:
        leases.heartbeat(session, claimed)
    assert reclaim_leases(*silent) == 0
    assert finish(claimed)


def test_releasing_a_chunk_counts_no_attempt(make: Callable[..., UUID]) -> None:
    make(frames=8)
    for _ in range(settings().max_attempts + 1):
        claimed = claim()
        assert claimed.attempt == 1
        with transaction() as session:
            leases.release(session, claimed)
    assert not nothing_to_claim()


def test_a_chunk_that_keeps_failing_fails_its_walk_and_no_other(make: Callable[..., UUID]) -> None:
    bad = make(frames=20)
    claimed = claim()
    good = make(frames=20)
    for attempt in range(1, settings().max_attempts + 1):
        assert (claimed.walk_id, claimed.number, claimed.attempt) == (bad, 0, attempt)
        with transaction() as session:
            leases.attempt_failed(session, claimed, "the model said no")
        if attempt < settings().max_attempts:
            assert chunk(claimed).scheduled_at > chunk(claimed).created_at
            make_due()
            claimed = claim()
    failed = walk(bad)
    assert (failed.status, failed.error_code) == (WalkStatus.FAILED, "render_failed")
    assert failed.error_message == "A part of this walk could not be rendered, although it was tried 5 times."
    assert chunk(claimed).error == "the model said no"
    assert walk(good).status == WalkStatus.QUEUED
    assert {claim().walk_id for _ in range(3)} == {good}
    assert nothing_to_claim()


def test_a_walk_fails_if_its_worker_vanishes_at_each_attempt(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=8)
    for _ in range(settings().max_attempts):
        claim()
        reclaim_leases()
    assert (walk(walk_id).status, walk(walk_id).error_code) == (WalkStatus.FAILED, "render_failed")
    assert nothing_to_claim()


def test_a_worker_is_refused_if_its_walk_has_failed(make: Callable[..., UUID]) -> None:
    make(frames=20)
    bad, other = claim(), claim()
    for _ in range(settings().max_attempts - 1):
        with transaction() as session:
            leases.attempt_failed(session, bad, "no")
        make_due()
        bad = claim()
    with transaction() as session:
        leases.attempt_failed(session, bad, "no")
    with pytest.raises(LeaseLostError):
        finish(other)
    assert walk(other.walk_id).frames_done == 0


def test_a_failed_chunk_backs_off_before_it_is_due(make: Callable[..., UUID]) -> None:
    make(frames=8)
    with transaction() as session:
        leases.attempt_failed(session, claim(), "no")
    assert nothing_to_claim()
    make_due()
    assert claim().attempt == 2


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_step_of_postgresqls_clock_neither_stops_the_queue_nor_ends_a_lease(
    make: Callable[..., UUID], hours: int
) -> None:
    """All stored times are moved the other way, which has the same effect."""
    make(frames=24)
    alive, given_back, failed = claim(), claim(), claim()
    with transaction() as session:
        leases.release(session, given_back)
        leases.attempt_failed(session, failed, "no")
    make(frames=8)
    watch = LeaseMonitor()
    assert watch.observe(held(), now=0) == []
    step = timedelta(hours=-hours)
    times = ("scheduled_at", "lease_expires_at", "claimed_at", "created_at")
    with transaction() as session:
        session.execute(update(Chunk).values({name: getattr(Chunk, name) + step for name in times}))
    assert watch.observe(held(), now=1) == []
    with transaction() as session:
        assert stats.count_ready(session) == {(ChunkKind.RENDER, "momalisa-mini"): 3}
        assert stats.collect(session).oldest_due_seconds[ChunkKind.RENDER, "momalisa-mini"] >= 0
    assert [claim().number for _ in range(2)] == [given_back.number, failed.number]
    finish(claim())
    finish(alive)


def test_a_heartbeat_updates_no_index(make: Callable[..., UUID]) -> None:
    """Such updates are HOT: their dead rows are pruned without a VACUUM."""
    make()
    claimed = claim()
    others = text("SELECT n_tup_upd - n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'chunks'")
    with transaction() as session:
        before = session.execute(others).scalar_one()
        leases.heartbeat(session, claimed)
        assert session.execute(others).scalar_one() == before


def test_frames_that_were_already_recorded_are_not_counted_twice(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=8)
    claimed = claim()
    stored = made_frames(claimed)
    with transaction() as session:
        assert results.record_frames(session, claimed, [*stored, *stored])
    assert walk(walk_id).frames_done == 8


def test_a_warning_is_added_once(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=8)
    claimed = claim()
    for _ in range(2):
        with transaction() as session:
            results.add_warnings(session, claimed, ["too long", "too “odd”"])
    assert walk(walk_id).warnings == ["too long", "too “odd”"]


def test_two_concurrent_reconcilers_reclaim_each_chunk_once(make: Callable[..., UUID]) -> None:
    make(frames=80)
    for _ in range(10):
        claim()
    silent = held()
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: reclaim_leases(*silent), range(8)))
    assert sum(taken) == 10
    with transaction() as session:
        assert stats.count_ready(session) == {(ChunkKind.RENDER, "momalisa-mini"): 10}


def test_a_reclaimed_chunk_is_claimed_before_all_others(make: Callable[..., UUID]) -> None:
    make(frames=20)
    first, lost = claim(), claim()
    reclaim_leases(*(lease for lease in held() if lease.token != first.token))
    make(frames=20, owner="bob")
    again = claim()
    assert (again.walk_id, again.number) == (lost.walk_id, lost.number)


def test_no_lease_is_left_when_all_chunks_are_done(make: Callable[..., UUID]) -> None:
    make(frames=20)
    until(lambda: finish(claim()), pause=0)
    with transaction() as session:
        leased = select(func.count()).where(Chunk.status == ChunkStatus.LEASED)
        assert session.scalar(leased) == 0


def render(walk_id: UUID) -> Claim:
    """Complete all chunks of the only walk, and claim its assembly."""
    until(lambda: finish(claim()), pause=0)
    return claim(ChunkKind.ASSEMBLE)


def lose(assembly: Claim, *indices: int) -> Ready | None:
    with transaction() as session:
        return results.requeue_frames(session, assembly, [assembly.frames[index].position for index in indices])


def test_frames_that_an_assembly_finds_damaged_are_rendered_again(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=20)
    assembly = render(walk_id)
    assert lose(assembly, 0, 7)
    assert (walk(walk_id).status, walk(walk_id).frames_done) == (WalkStatus.ASSEMBLING, 18)
    with pytest.raises(LeaseLostError):
        lose(assembly, 0)
    again = claim()
    missing = [frame.position for frame in again.frames if frame.stored is None]
    assert assembly.frames[0].position in missing
    assert len(again.frames) > len(missing)  # the whole batch is rendered again, for the same pixels
    if not finish(again):
        until(lambda: finish(claim()), pause=0)
    assert walk(walk_id).frames_done == 20
    with transaction() as session:
        results.complete_walk(session, claim(ChunkKind.ASSEMBLE), [artifact(ArtifactKind.GIF)])
    assert walk(walk_id).status == WalkStatus.SUCCEEDED
    assert nothing_to_claim()
    assert nothing_to_claim(ChunkKind.ASSEMBLE)


def test_repeatedly_damaged_frames_fail_the_walk(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=8)
    for _ in range(settings().max_attempts - 1):
        assert lose(render(walk_id), 3)
    assert not lose(render(walk_id), 3)
    assert (walk(walk_id).status, walk(walk_id).error_code) == (WalkStatus.FAILED, "assembly_failed")
    assert nothing_to_claim()


def cancel(walk_id: UUID) -> Walk:
    with transaction() as session:
        return service.cancel(session, walk_id, owner="ann")


def test_a_canceled_walk_keeps_its_frames_and_refuses_its_workers(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=20)
    finish(claim())
    running = claim()
    assert (cancel(walk_id).status, cancel(walk_id).status) == (WalkStatus.CANCELED, WalkStatus.CANCELED)
    with pytest.raises(LeaseLostError), transaction() as session:
        leases.heartbeat(session, running)
    with pytest.raises(LeaseLostError):
        finish(running)
    assert nothing_to_claim()
    assert (walk(walk_id).frames_done, walk(walk_id).finished_at is not None) == (8, True)


def test_a_walk_that_is_being_assembled_can_be_canceled(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=8)
    assembly = render(walk_id)
    assert cancel(walk_id).status == WalkStatus.CANCELED
    with pytest.raises(LeaseLostError), transaction() as session:
        results.complete_walk(session, assembly, [artifact(ArtifactKind.GIF)])
    assert walk(walk_id).artifacts == []


def test_a_finished_walk_can_no_longer_be_canceled(make: Callable[..., UUID]) -> None:
    walk_id = make(frames=8)
    with transaction() as session:
        results.complete_walk(session, render(walk_id), [artifact(ArtifactKind.GIF)])
    with pytest.raises(WalkEndedError, match="it is succeeded"):
        cancel(walk_id)


def test_workers_and_visitors_of_one_walk_do_not_block_each_other(make: Callable[..., UUID]) -> None:
    """Concurrent claims, reports, failures, cancellations and reconciler rounds: no deadlock, no lost walk."""
    walks = [make(frames=80) for _ in range(6)]

    def work(number: int) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline
            with transaction() as session:
                claimed = leases.claim(session, ChunkKind.RENDER, f"w{number}")
            if claimed is None:
                return
            try:
                if claimed.number % 4 == 3:
                    with transaction() as session:
                        leases.attempt_failed(session, replace(claimed, attempt=9), "no")
                else:
                    finish(claimed)
            except LeaseLostError:
                pass

    def disturb(number: int) -> None:
        for walk_id in walks[number::2]:
            reclaim_leases()
            with contextlib.suppress(WalkEndedError):  # it has already failed
                cancel(walk_id) if number else None
            reclaim_leases()

    with ThreadPoolExecutor(8) as pool:
        for future in [*(pool.submit(work, n) for n in range(6)), *(pool.submit(disturb, n) for n in range(2))]:
            future.result()
    for walk_id in walks:
        assert walk(walk_id).status in {WalkStatus.FAILED, WalkStatus.CANCELED}
    assert nothing_to_claim()
