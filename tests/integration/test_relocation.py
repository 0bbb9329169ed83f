"""Walks that are hidden or made private: their old URLs stop working, and nothing is lost."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from google.api_core.exceptions import Forbidden
from sqlalchemy import select, update

from momalisa.db.models import Chunk, Frame, Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind, ChunkStatus, WalkStatus
from momalisa.maintenance import reconciler
from momalisa.storage import bucket
from momalisa.walks import moderation, relocation
from momalisa.walks.relocation import Move
from tests.clients import new_client
from tests.conftest import until
from tests.finished_walks import draw, finish
from tests.integration.conftest import Finished
from tests.walk_files import SMALL, Reply, checksums, look, statuses, urls
from worker import assemble_task, runner
from worker.lease import Lease
from worker.process.worker import Worker
from worker.recording import Record


def make_private(api: TestClient, walk: Reply) -> Reply:
    answer = api.patch(f"/v1/walks/{walk['id']}", json={"public": False})
    assert answer.status_code == 200, answer.text
    changed: Reply = answer.json()
    return changed


def make_private_again(api: TestClient, walk: Reply) -> Reply:
    assert api.patch(f"/v1/walks/{walk['id']}", json={"public": True}).status_code == 200
    return make_private(api, walk)


def hide(api: TestClient, walk: Reply) -> Reply:
    with transaction() as session:
        moderation.hide(session, UUID(walk["id"]))
    return look(api, walk["id"])


def names(walk: Reply) -> set[str]:
    """Return the names of all objects of a walk that are in the bucket."""
    return set(bucket.list_names(bucket.folder_name(walk["id"])))


def is_moved(api: TestClient, before: Reply, sums: list[str]) -> None:
    """Check that the old URLs of a walk are dead, and that its owner gets the same files at new ones."""
    after = look(api, before["id"])
    assert statuses(urls(before)) == {404}
    assert not set(urls(before)) & set(urls(after))
    assert checksums(after) == sums
    assert names(after) == {url.partition("/momalisa/")[2] for url in urls(after)}
    with transaction() as session:
        assert set(session.scalars(select(Walk.secret_changed_at))) == {None}


@pytest.mark.parametrize("change", [make_private, hide])
def test_old_urls_of_hidden_and_private_walks_stop_working(
    api: TestClient, finished: Finished, change: Callable[[TestClient, Reply], Reply]
) -> None:
    walk = finished(public=True)
    tag, sums = api.get(f"/v1/walks/{walk['id']}").headers["etag"], checksums(walk)
    changed = change(api, walk)
    assert (walk["urls_expire_at"], urls(changed)) == (None, urls(walk))
    left = datetime.fromisoformat(changed["urls_expire_at"]) - datetime.now(UTC)
    assert timedelta() < left <= timedelta(seconds=60)
    assert new_client(api).get(f"/v1/walks/{walk['id']}").status_code == 404
    change(api, walk)  # repeating it changes nothing
    reconciler.move_objects()
    is_moved(api, walk, sums)
    assert api.get(f"/v1/walks/{walk['id']}").headers["etag"] != tag
    moved = look(api, walk["id"])
    reconciler.move_objects()
    assert look(api, walk["id"]) == moved
    assert moved["urls_expire_at"] is None


def test_a_walk_that_is_shown_again_keeps_its_new_names(api: TestClient, finished: Finished) -> None:
    walk = finished(public=False)
    answer = api.patch(f"/v1/walks/{walk['id']}", json={"public": True})
    assert (answer.json()["public"], urls(answer.json())) == (True, urls(walk))
    assert look(new_client(api), walk["id"])["public"]
    reconciler.move_objects()
    assert urls(look(api, walk["id"])) == urls(walk)


Step = Callable[[Move], object]


def copy_some(what: Move) -> None:
    relocation.copy(Move(what.walk_id, what.secret, what.objects[::2]))


def record(what: Move) -> None:
    with transaction() as session:
        relocation.record(session, what)


def remove(what: Move) -> None:
    relocation.remove(what, everything=True)


def remove_some(what: Move) -> None:
    for each in what.objects[::2]:
        bucket.delete(each.name)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [copy_some],
        [relocation.copy],
        [relocation.copy, record],
        [relocation.copy, record, remove_some],
        [relocation.copy, record, remove],
        [relocation.copy, record, remove, relocation.copy],  # a second, late process
    ],
    ids=lambda steps: "-".join(step.__name__ for step in steps) or "nothing",
)
def test_a_process_may_die_after_each_step(api: TestClient, finished: Finished, steps: list[Step]) -> None:
    walk = finished(public=True)
    sums = checksums(walk)
    make_private(api, walk)
    with transaction() as session:
        what = relocation.plan(session, UUID(walk["id"]))
    assert what
    assert len(what.objects) == len(urls(walk))
    for step in steps:
        step(what)
    reconciler.move_objects()
    is_moved(api, walk, sums)


def test_if_the_secret_changes_during_a_move_the_last_one_wins(api: TestClient, finished: Finished) -> None:
    walk = finished(public=True)
    sums = checksums(walk)
    make_private(api, walk)
    with transaction() as session:
        what = relocation.plan(session, UUID(walk["id"]))
    assert what
    relocation.copy(what)
    api.patch(f"/v1/walks/{walk['id']}", json={"public": True})
    make_private(api, walk)
    with transaction() as session:
        assert not relocation.record(session, what)
        relocation.finish(session, what)
    reconciler.move_objects()
    is_moved(api, walk, sums)


def private_walk_in_progress(api: TestClient) -> Reply:
    walk: Reply = api.post("/v1/walks", json={**SMALL, "frames": 12, "public": True}).json()
    return walk


def test_frames_recorded_with_the_old_secret_are_moved(api: TestClient) -> None:
    walk = private_walk_in_progress(api)
    seen: list[Reply] = []

    def while_it_is_made_private(work: Lease) -> Record:
        recorded = draw(work)
        if not work.claim.number:  # another chunk first, so that there is something to move
            return recorded
        make_private(api, walk)
        assert not relocation.move(
            UUID(walk["id"])
        )  # recorded objects move; unrecorded uploads of this worker stay
        seen.append(look(api, walk["id"]))
        assert checksums(seen[0])
        return recorded

    def is_seen() -> bool:
        runner.run(Worker(), ChunkKind.RENDER, while_it_is_made_private)
        return bool(seen)

    until(is_seen, pause=0)
    assert relocation.move(UUID(walk["id"]))
    finish(UUID(walk["id"]))
    made = look(api, walk["id"])
    assert (len(urls(made)), len(checksums(made))) == (19, 19)
    assert names(made) == {url.partition("/momalisa/")[2] for url in urls(made)}
    assert {name.split("/")[2] for name in names(made)} == {urls(made)[0].split("/")[-3]}
    assert set(urls(seen[0])) <= set(urls(made))


@pytest.mark.parametrize("before_it_reads", [True, False])
def test_an_assembly_survives_the_move_of_its_frames(api: TestClient, before_it_reads: bool) -> None:
    walk = private_walk_in_progress(api)

    def is_rendered() -> bool:
        runner.run(Worker(), ChunkKind.RENDER, draw)
        return bool(look(api, walk["id"])["status"] == "assembling")

    until(is_rendered, pause=0)
    attempts: list[int] = []

    def while_it_is_made_private(work: Lease) -> Record:
        attempts.append(work.claim.attempt)
        if len(attempts) > 1:  # released, and claimed again
            assert all(frame.stored for frame in work.claim.frames)  # none was lost
            return assemble_task.assemble(work)
        recorded = None if before_it_reads else assemble_task.assemble(work)
        make_private(api, walk)
        assert not relocation.move(UUID(walk["id"]))
        return recorded or assemble_task.assemble(work)

    for _ in range(2):
        runner.run(Worker(), ChunkKind.ASSEMBLE, while_it_is_made_private)
    assert attempts == ([1, 1] if before_it_reads else [1])  # a released attempt does not count
    with transaction() as session:
        chunks = session.execute(select(Chunk.kind, Chunk.status).order_by(Chunk.number)).all()
    assert [tuple(chunk) for chunk in chunks] == [
        *[(ChunkKind.RENDER, ChunkStatus.DONE)] * 2,
        (ChunkKind.ASSEMBLE, ChunkStatus.DONE),
    ]
    finish(UUID(walk["id"]))
    assert relocation.move(UUID(walk["id"]))
    made = look(api, walk["id"])
    assert len(checksums(made)) == 19
    assert names(made) == {url.partition("/momalisa/")[2] for url in urls(made)}


def test_a_missing_frame_does_not_prevent_the_move_of_others(api: TestClient, finished: Finished) -> None:
    walk = finished(public=True)
    lost = urls(walk)[0]
    bucket.delete(lost.partition("/momalisa/")[2])
    make_private(api, walk)
    reconciler.move_objects()
    assert statuses(urls(walk)) == {404}
    assert statuses(urls(look(api, walk["id"]))[1:]) == {200}


def test_a_walk_that_cannot_be_moved_delays_no_other(
    api: TestClient, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relocation, "AT_ONCE", 1)  # one walk per round, so that their order is visible
    walks = [finished(public=True) for _ in range(2)]
    fine, bad = walks  # the latest comes first
    for walk in walks:
        make_private(api, walk)
    work, tried = relocation.copy, list[str]()

    def copy(what: Move) -> None:
        tried.append(str(what.walk_id))
        if str(what.walk_id) == bad["id"]:
            raise Forbidden("no copies of this one")  # type: ignore[no-untyped-call] # Google's has no types
        work(what)

    monkeypatch.setattr(relocation, "copy", copy)
    with pytest.raises(Forbidden):
        reconciler.move_objects()
    assert reconciler.move_objects()  # the other one is not delayed
    assert (statuses(urls(fine)), statuses(urls(bad))) == ({404}, {200})
    monkeypatch.setattr(relocation, "AT_ONCE", 2)
    make_private_again(api, fine)
    make_private_again(api, bad)  # the latest again, so it comes first again
    with pytest.raises(Forbidden):  # after the other one was moved in the same round
        reconciler.move_objects()
    assert tried == [walk["id"] for walk in (bad, fine, bad, fine)]
    monkeypatch.undo()
    reconciler.move_objects()
    assert statuses(urls(bad)) == {404}


def test_object_names_without_a_secret_are_moved(api: TestClient, finished: Finished) -> None:
    walk = finished(public=True)
    sums, folder = checksums(walk), bucket.folder_name(walk["id"])
    with transaction() as session:
        frames = session.scalars(select(Frame)).all()
    for frame in frames:
        name = f"{folder}frames/{frame.position:.9f}.png"
        bucket.copy(bucket.StoredObject(frame.object or "", 0, frame.crc32c or ""), name)
        bucket.delete(frame.object or "")
        with transaction() as session:
            session.execute(update(Frame).where(Frame.position == frame.position).values(object=name))
    old = look(api, walk["id"])
    assert "/frames/" in urls(old)[0]
    assert statuses(urls(old)) == {200}
    make_private(api, walk)
    reconciler.move_objects()
    is_moved(api, old, sums)


def test_only_the_owner_can_change_a_walk_and_only_its_visibility(api: TestClient) -> None:
    walk_id = api.post("/v1/walks", json=SMALL).json()["id"]

    def change(of: str = walk_id, client: TestClient = api, **body: object) -> tuple[int, str]:
        answer = client.patch(f"/v1/walks/{of}", json=body)
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, answer.json()["type"].rpartition("/")[2]

    assert change(public=False, client=new_client(api)) == (403, "not-owner")
    assert change(str(uuid4()), public=False) == (404, "walk-not-found")
    for wrong in ({}, {"public": None}, {"public": "no"}, {"public": 1}, {"public": True, "frames": 3}):
        assert change(**wrong) == (422, "invalid-request")
    with transaction() as session:
        session.execute(update(Walk).values(status=WalkStatus.EXPIRED))
    assert change(public=False) == (410, "walk-expired")


def test_a_change_that_changes_nothing_is_no_change(api: TestClient) -> None:
    url = f"/v1/walks/{api.post('/v1/walks', json={**SMALL, 'public': True}).json()['id']}"
    tag = api.get(url).headers["etag"]
    assert api.patch(url, json={"public": True}).status_code == 200
    assert api.get(url).headers["etag"] == tag
