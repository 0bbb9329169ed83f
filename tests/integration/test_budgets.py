"""Daily budgets: a walk is charged the most that it may take, and what it computed once it has ended."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from momalisa.db.models import Charge, Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ArtifactKind, ChunkKind, Made
from momalisa.maintenance import reconciler
from momalisa.queue import admin, leases, results
from momalisa.queue.leases import Claim
from momalisa.queue.results import UploadedArtifact
from momalisa.storage.bucket import StoredObject
from momalisa.walks import queries
from tests.claims import claim, claim_if_any, made_frames, render_a_chunk
from tests.clients import new_client, new_key, submit
from tests.dense_chunks import finish, finish_all
from tests.integration.conftest import Limit, assert_refused

SMALL = {"prompts": ["a", "b"], "frames": 16, "steps": 3, "width": 128, "height": 128, "pacing": "linear"}
DENSE = {**SMALL, "frames": 96, "pacing": "even", "exact": False}

PIXELS = 128 * 128


def charge(walk_id: str) -> Charge:
    with transaction() as session:
        return session.get_one(Charge, UUID(walk_id))


def charged_steps(walk_id: str) -> float:
    """Return the pictures × steps that a walk is charged."""
    return charge(walk_id).pixel_steps / PIXELS


def assemble() -> None:
    """Complete the walk that is to be assembled."""
    with transaction() as session:
        claimed = leases.claim(session, ChunkKind.ASSEMBLE, "here")
        assert claimed
        gif = UploadedArtifact(ArtifactKind.GIF, StoredObject("a.gif", 9, "AAAAAA=="), 128, 128)
        results.complete_walk(session, claimed, [gif])


def copy_chunk(claimed: Claim, number: int) -> None:
    """Record a chunk, of which the first frames are copied from another walk."""
    made = made_frames(claimed)
    with transaction() as session:
        copied = [frame._replace(copied=True) for frame in made[:number]]
        results.record_frames(session, claimed, copied + made[number:])


def test_a_dense_walk_reserves_all_its_frames_and_gives_back_what_was_interpolated(
    api: TestClient, limit: Limit
) -> None:
    limit(pixel_steps_per_day=96 * 3 * PIXELS, batch_size=4)
    answer = api.post("/v1/walks", json=DENSE)
    assert '"pixel-steps";r=0;t=86' in answer.headers["ratelimit"]
    refused = api.post("/v1/walks", json=SMALL)
    assert_refused(refused, "0 are left, and this may take 786432; ask for fewer frames, fewer steps")
    assert "wait for your unfinished walks" in refused.json()["detail"]
    assert refused.headers["retry-after"] == "30"
    assert '"pixel-steps";r=0;t=' in refused.headers["ratelimit"]

    denoised = [claimed for claimed in finish_all() if not claimed.interpolated]
    assemble()
    walk_id = answer.json()["id"]
    with transaction() as session:
        made = [frame.made for frame in queries.get(session, UUID(walk_id), viewer=None).frames]
    assert made.count(Made.INTERPOLATED) > 40
    taken = len(denoised) * 4 * 3 + made.count(Made.INTERPOLATED)
    assert charged_steps(walk_id) == taken < 96 * 3 * 2 / 3
    left = f'"pixel-steps";r={(96 * 3 - taken - 16 * 3) * PIXELS};t='
    assert left in api.post("/v1/walks", json=SMALL).headers["ratelimit"]


def test_a_canceled_walk_counts_the_batches_that_were_begun(api: TestClient, limit: Limit) -> None:
    limit(batch_size=4)
    walk_id = submit(api, **SMALL)
    assert (charged_steps(walk_id), charge(walk_id).output_pixels) == (16 * 3, 16 * PIXELS)
    render_a_chunk()
    claim()
    for _ in range(2):
        api.post(f"/v1/walks/{walk_id}/cancel")
        assert (charged_steps(walk_id), charge(walk_id).output_pixels) == (2 * 4 * 3, 0)


def test_a_canceled_walk_counts_interpolated_frames_that_were_begun_as_one_step(
    api: TestClient, limit: Limit
) -> None:
    limit(batch_size=4)
    walk_id = submit(api, **DENSE)
    denoised = 0
    while (claimed := claim_if_any()) and not claimed.interpolated:
        finish(claimed)
        denoised += 1
    assert claimed
    api.post(f"/v1/walks/{walk_id}/cancel")
    assert charged_steps(walk_id) == denoised * 4 * 3 + len(claimed.frames)


def test_a_walk_that_an_operator_retries_is_charged_once(api: TestClient, limit: Limit) -> None:
    limit(batch_size=4, max_attempts=1)
    walk_id = submit(api, **SMALL)
    for _ in range(3):
        render_a_chunk()
    failed = claim()
    with transaction() as session:
        leases.attempt_failed(session, failed, "CUDA error")
    assert (charged_steps(walk_id), charge(walk_id).output_pixels) == (16 * 3, 0)
    with transaction() as session:
        admin.retry(session, UUID(walk_id))
    render_a_chunk()
    assemble()
    assert (charged_steps(walk_id), charge(walk_id).output_pixels) == (16 * 3, 0)


def test_the_output_of_unfinished_walks_is_not_expected_back(api: TestClient, limit: Limit) -> None:
    limit(output_pixels_per_day=16 * PIXELS)
    submit(api, **SMALL)
    refused = api.post("/v1/walks", json=SMALL)
    assert_refused(
        refused, "0 are left, and this may take 262144; ask for fewer frames, a smaller size or no large files."
    )
    assert int(refused.headers["retry-after"]) > 86_000


def test_copied_frames_count_nothing_unless_their_batch_is_rendered_for_others(
    api: TestClient, limit: Limit
) -> None:
    limit(batch_size=4)
    walk_id = submit(api, **SMALL)
    for copied in (4, 4, 3, 0):
        claimed = claim()
        copy_chunk(claimed, copied)
    assemble()
    assert charged_steps(walk_id) == 2 * 4 * 3
    assert charge(walk_id).output_pixels == 16 * PIXELS


def test_deleting_a_walk_gives_nothing_back_that_was_computed(api: TestClient, limit: Limit) -> None:
    limit(pixel_steps_per_day=20 * 3 * PIXELS, batch_size=16)
    walk_id = submit(api, **SMALL)
    render_a_chunk()
    assert api.delete(f"/v1/walks/{walk_id}").status_code == 204
    with transaction() as session:
        session.execute(update(Walk).values(deleted_at=Walk.deleted_at - timedelta(hours=1)))
    reconciler.remove_walks()
    with transaction() as session:
        assert session.get(Walk, UUID(walk_id)) is None
    assert charged_steps(walk_id) == 16 * 3
    assert_refused(api.post("/v1/walks", json=SMALL), "pixel-steps")


def test_concurrent_submissions_cannot_exceed_a_budget(api: TestClient, limit: Limit) -> None:
    limit(pixel_steps_per_day=2 * 16 * 3 * PIXELS + 7)
    client = new_client(api, new_key())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/walks", json=SMALL).status_code, range(8)))
    assert sorted(answers) == [202] * 2 + [429] * 6


@pytest.mark.parametrize("budget", ["pixel_steps_per_day", "output_pixels_per_day"])
def test_a_day_after_its_submission_a_walk_no_longer_counts(api: TestClient, limit: Limit, budget: str) -> None:
    each = 16 * PIXELS * (3 if budget == "pixel_steps_per_day" else 1)
    limit(**{budget: 3 * each}, batch_size=16)
    walks = [submit(api, **SMALL) for _ in range(3)]
    for hours, walk_id in zip((20, 10, 1), walks, strict=True):
        render_a_chunk()
        assemble()
        with transaction() as session:
            mine = update(Charge).where(Charge.walk_id == UUID(walk_id))
            session.execute(mine.values(created_at=Charge.created_at - timedelta(hours=hours)))
    for frames, hours in ((16, 4), (32, 14), (48, 23)):
        refused = api.post("/v1/walks", json={**SMALL, "frames": frames})
        assert_refused(refused, "0 are left")
        assert "unfinished" not in refused.json()["detail"]
        assert hours * 3600 - 60 < int(refused.headers["retry-after"]) <= hours * 3600
    with transaction() as session:
        session.execute(update(Charge).values(created_at=Charge.created_at - timedelta(hours=5)))
    reconciler.delete_old_records()
    with transaction() as session:
        assert {str(each) for each in session.scalars(select(Charge.walk_id))} == {*walks[1:]}
    submit(api, **SMALL)
