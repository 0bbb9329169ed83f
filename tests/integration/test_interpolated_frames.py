"""Frames between denoised ones, through the bucket: made by any process, checked, flagged, or denoised instead."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast
from uuid import UUID

import numpy as np
import pytest
from transformers import CLIPImageProcessor

from momalisa.db.session import transaction
from momalisa.domain.content import content_hashes
from momalisa.domain.pins import Batch, Pins
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, Flag, Made
from momalisa.errors import KeysLostError
from momalisa.local.stack import LocalStack
from momalisa.queue import leases, results
from momalisa.queue.leases import Claim, Key
from momalisa.queue.lifecycle import Ready
from momalisa.queue.results import FlaggedFrame, UploadedFrame
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.walks import queries, relocation, service
from tests.claims import claim
from tests.stand_ins import Checker, Never
from worker import render_task
from worker.lease import Lease
from worker.media import encoders
from worker.rendering import interpolation
from worker.rendering.batch import RenderRequest, render_batch
from worker.rendering.interpolation import difference
from worker.rendering.pipeline import Renderer

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
BETWEEN = (0.55, 0.6, 0.65)

Render = Callable[..., list[UploadedFrame | FlaggedFrame]]


def dense_renderer() -> Renderer:
    renderer = Renderer(settings().model, batch_size=2, dtype="float32")
    renderer.warm_up(64)
    return renderer


@pytest.fixture(scope="module")
def dense() -> Renderer:
    return dense_renderer()


@pytest.fixture
def render(services: LocalStack, spec: Callable[..., WalkSpec]) -> Iterator[Render]:
    """A function that renders frames of a walk to the bucket, by a process that remembers no keys."""
    bucket.make_bucket()

    def make(renderer: Renderer, *positions: float, number: int = 1, **changes: Any) -> Any:
        interpolation._cache.clear()
        request = RenderRequest(
            walk_id=UUID(int=number),
            secret="",
            model="momalisa-mini",
            spec=spec(frames=64, exact=False),
            positions=positions,
            to_upload=frozenset(positions),
            batch_size=2,
        )
        return render_batch(renderer, replace(request, **changes), Never()).made

    yield make
    bucket.delete_all("walks/")


@pytest.fixture
def keys(render: Render, dense: Renderer) -> tuple[Key, ...]:
    made = [frame for frame in render(dense, *PLACES) if isinstance(frame, UploadedFrame)]
    assert all(frame.latents for frame in made)
    assert {(frame.interpolated, frame.check) for frame in made} == {(False, None)}
    return tuple(Key(frame.position, frame.stored, frame.content_hash) for frame in made)


def picture(frame: UploadedFrame | FlaggedFrame) -> Any:
    assert isinstance(frame, UploadedFrame)
    return encoders.decode_png(bucket.read(frame.stored))


def test_a_frame_between_is_the_same_whichever_process_makes_it_and_near_the_denoised_one(
    render: Render, dense: Renderer, keys: tuple[Key, ...], spec: Callable[..., WalkSpec]
) -> None:
    made = render(dense, *BETWEEN, interpolated=True, keys=keys)
    again = render(dense_renderer(), *BETWEEN, number=2, interpolated=True, keys=keys, to_upload={0.65})
    assert [frame.position for frame in again] == [0.65]
    for frame in made:
        assert isinstance(frame, UploadedFrame)
        assert (frame.interpolated, frame.latents, frame.check) == (True, False, None)
        data = bucket.read(frame.stored)
        assert b'"made": "interpolated"' in data
        assert encoders.LATENTS not in data
    assert isinstance(again[0], UploadedFrame)
    assert isinstance(made[2], UploadedFrame)
    assert bucket.read(again[0].stored) == bucket.read(made[2].stored)
    assert again[0].content_hash == made[2].content_hash
    denoised = render(dense, *BETWEEN, number=3, keys=keys)
    apart = difference(*(encoders.decode_png(bucket.read(key.stored)) for key in keys[2:4]))
    hashes = content_hashes(spec(frames=64), BETWEEN, dense.made_with.model_dump_json(), 2)
    for frame, exact, content_hash in zip(made, denoised, hashes, strict=True):
        assert isinstance(exact, UploadedFrame)
        assert isinstance(frame, UploadedFrame)
        assert exact.content_hash == content_hash != frame.content_hash
        assert exact.check
        assert (exact.check.start, exact.check.end) == (0.5, 0.75)
        error = difference(picture(frame), picture(exact))
        assert (exact.check.mean, exact.check.block) == error, "it is what interpolation would have given"
        assert 0 < error.mean < apart.mean / 2


def test_a_frame_that_cannot_be_interpolated_is_denoised(
    render: Render, dense: Renderer, keys: tuple[Key, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    [exact] = render(dense, 0.6, number=2)
    others = tuple(key for key in keys if key.position > 0.6)
    for number, given in enumerate((others, keys), 3):
        with monkeypatch.context() as patch:
            patch.setattr(dense, "decodes", given is not keys)
            [frame] = render(dense, 0.6, number=number, interpolated=True, keys=given)
        assert isinstance(frame, UploadedFrame)
        assert not frame.interpolated
        assert np.array_equal(picture(frame), picture(exact))


PINS = Pins(
    batches=[Batch(size=2, positions=[0, 1]), Batch(size=2, positions=[0.25, 0.5, 0.75], interpolated=True)]
)


class Held(Never):
    """A lease that is never lost."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim


@pytest.fixture
def walk(
    render: Render, dense: Renderer, spec: Callable[..., WalkSpec], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], UUID]:
    """A function that orders a walk with frames between two others, for this process to render."""
    monkeypatch.setattr(render_task, "renderer", lambda: dense)

    def order() -> UUID:
        with transaction() as session:
            return service.create(session, spec(frames=5, exact=False), public=True, owner="ann", pins=PINS).id

    return order


def work(claimed: Claim) -> Ready | None:
    """Process a claimed chunk as a worker that remembers no keys."""
    interpolation._cache.clear()
    try:
        record = render_task.render(cast("Lease", Held(claimed)))
    except KeysLostError as lost:
        record = partial(results.requeue_keys, claim=claimed, positions=lost.positions)
    with transaction() as session:
        return record(session)


def frames(walk_id: UUID) -> dict[float, tuple[Made | None, bytes]]:
    with transaction() as session:
        found = queries.get(session, walk_id, viewer="ann").frames
        stored = {frame.position: (frame.made, leases._stored(frame)) for frame in found}
    return {at: (made, bucket.read(where)) for at, (made, where) in stored.items() if where}


@pytest.mark.parametrize("missing", [True, False])
def test_a_key_that_was_lost_is_made_again_before_frames_are_made_between(
    walk: Callable[[], UUID], *, missing: bool
) -> None:
    calm = walk()
    work(claim())
    assert work(claim()) == Ready(ChunkKind.ASSEMBLE)
    stormy = walk()
    work(claim())
    between = claim()
    [_, lost] = between.keys
    bucket.delete(lost.stored.name)
    if not missing:
        bucket.upload(lost.stored.name, b"not the frame", "image/png")
    assert work(between) == Ready(ChunkKind.RENDER, 1, between.model)
    again = claim()
    assert [(frame.position, frame.missing) for frame in again.frames] == [(0, False), (1, True)]
    assert work(again) == Ready(ChunkKind.RENDER, 1, between.model)
    between = claim()
    assert between.attempt == 1, "it has not failed"
    assert work(between) == Ready(ChunkKind.ASSEMBLE)
    assert frames(stormy) == frames(calm)
    assert frames(stormy)[0.5][0] == Made.INTERPOLATED


def test_keys_that_are_renamed_meanwhile_are_found_at_the_next_claim(walk: Callable[[], UUID]) -> None:
    walk_id = walk()
    work(claim())
    before = claim()
    with transaction() as session:
        service.set_public(session, walk_id, False, owner="ann")
    relocation.move(walk_id)
    assert work(before) == Ready(ChunkKind.RENDER, 1, before.model)
    again = claim()
    assert again.attempt == 1, "it has not failed"
    assert {key.stored.name for key in before.keys}.isdisjoint(key.stored.name for key in again.keys)
    work(again)
    assert frames(walk_id)[0.5][0] == Made.INTERPOLATED


def test_a_frame_between_is_flagged_by_the_safety_checker(
    render: Render, dense: Renderer, keys: tuple[Key, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense.pipeline, "safety_checker", Checker({1}))
    monkeypatch.setattr(dense.pipeline, "feature_extractor", CLIPImageProcessor())
    shown, flagged = render(dense, *BETWEEN[:2], interpolated=True, keys=keys)
    assert flagged == FlaggedFrame(0.6, Flag.UNSAFE)
    assert picture(shown).max() > 0
