"""Walks that start from others: equal frames are copied inside the bucket, and only the rest is rendered."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from sqlalchemy import select, update

from momalisa.db.models import Frame, Walk
from momalisa.db.session import transaction
from momalisa.domain.pins import MadeWith
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ChunkKind, WalkStatus
from momalisa.settings import settings
from momalisa.storage import bucket
from tests.clients import accepted
from tests.conftest import until
from tests.integration.conftest import completed
from worker import render_task, runner
from worker.media.encoders import Picture, decode_png
from worker.process.worker import Worker
from worker.rendering.pipeline import Rendering

ORDER = {"prompts": ["a giraffe", "a battleship"], "frames": 16, "seed": 7, "steps": 2, "width": 64, "height": 64}

Reply = dict[str, Any]


class Painter:
    """A stand-in for the model: paints the position of each frame at once, and counts frames."""

    made_with = MadeWith(revision="painted", dtype="uint8", device="brush")

    def __init__(self) -> None:
        self.painted: list[float] = []
        self.dense = False

    def warnings(self, spec: WalkSpec) -> list[str]:  # noqa: ARG002
        return []

    def batch_that_fits(self, spec: WalkSpec, wanted: int, *, decoded: bool) -> int:  # noqa: ARG002
        return wanted

    def decode(
        self, spec: WalkSpec, latents: NDArray[np.float32], check: Callable[[], None], batch_size: int
    ) -> Rendering:
        check()
        return self._paint(spec, latents[:, 0].tolist(), batch_size)

    def render(
        self,
        spec: WalkSpec,
        positions: list[float],
        check: Callable[[], None],
        batch_size: int,
    ) -> Rendering:
        check()
        self.painted += positions
        return self._paint(spec, positions, batch_size)

    def _paint(self, spec: WalkSpec, positions: list[float], batch_size: int) -> Rendering:
        pictures = []
        for position in positions:
            picture = np.full((spec.height, spec.width, 3), 255, np.uint8)
            picture[:, : round(position * spec.width)] = 0
            pictures.append(picture)
        latents = np.array(positions, np.float16)[:, None] if self.dense else None
        return Rendering(np.stack(pictures), (None,) * len(pictures), batch_size, latents)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Painter:
    painter = Painter()
    monkeypatch.setattr(render_task, "renderer", lambda: painter)
    return painter


@pytest.fixture
def make(api: TestClient, painter: Painter) -> Callable[..., Reply]:
    """Submit a walk and complete it; `painter` counts the rendered frames."""

    def make_walk(**order: Any) -> Reply:
        return finish(api, painter, accepted(api, order if "from_walk" in order else {**ORDER, **order}))

    return make_walk


def finish(api: TestClient, painter: Painter, walk: Reply) -> Reply:
    painter.painted = []
    return completed(api, walk)


def positions(walk: Reply) -> list[float]:
    return [frame["position"] for frame in walk["frames"]]


def objects(walk: Reply) -> list[str]:
    return [frame["url"].partition("/momalisa/")[2] for frame in walk["frames"]]


def remove(api: TestClient, walk: Reply) -> None:
    assert api.delete(f"/v1/walks/{walk['id']}").status_code == 204
    bucket.delete_all(bucket.folder_name(walk["id"]))


@pytest.mark.parametrize(
    ("before", "after", "frames"),
    [
        ({"pacing": "even"}, {"frames": 48}, 48),
        ({"pacing": "linear"}, {"frames": 46}, 46),
        ({"pacing": "even", "leg_frames": [15]}, {"leg_frames": [30]}, 31),
        ({"pacing": "linear", "leg_frames": [15]}, {"leg_frames": [30]}, 31),
    ],
)
def test_refining_a_walk_renders_only_the_new_frames(
    make: Callable[..., Reply], painter: Painter, before: dict[str, Any], after: dict[str, Any], frames: int
) -> None:
    coarse = make(**before)
    assert len(painter.painted) == 16
    fine = make(from_walk=coarse["id"], **after)
    assert len(painter.painted) == frames - 16
    assert set(positions(coarse)) <= set(positions(fine))
    assert not set(painter.painted) & set(positions(coarse))
    assert (fine["from_walk"], fine["progress"]["frames_done"]) == (coarse["id"], frames)
    for frame in fine["frames"]:
        assert picture(fine, frame["position"])[:, : round(frame["position"] * 64)].max(initial=0) == 0


def test_a_copied_frame_keeps_its_check_only_where_that_means_the_same(
    api: TestClient, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of one frame, walks share frames whatever else they have."""
    painter.dense = True
    monkeypatch.setenv("BATCH_SIZE", "1")
    settings.cache_clear()

    def rendered(order: Reply) -> Reply:
        walk, worker = accepted(api, order), Worker()
        worker.watchdog.start()
        while runner._claim_and_process(worker, ChunkKind.RENDER, render_task.render):
            pass
        found: Reply = api.get(f"/v1/walks/{walk['id']}").json()
        assert found["status"] == "assembling", found["error"]
        return found

    first = rendered({**ORDER, "exact": False, "frames": 129, "pacing": "linear"})
    again = rendered({"from_walk": first["id"]})
    stop = rendered({"from_walk": first["id"], "prompts": ["a giraffe", "a battleship", "a swan"]})
    with_checks = select(Frame.position).where(Frame.copied, ~Frame.interpolated, Frame.check.is_not(None))
    for walk, kept in ((again, True), (stop, False)):
        assert walk["made"]["copied"]
        with transaction() as session:
            assert bool(session.scalars(with_checks.where(Frame.walk_id == walk["id"])).all()) == kept


def picture(walk: Reply, position: float) -> Picture:
    blob = bucket._bucket().blob(objects(walk)[positions(walk).index(position)])
    return decode_png(blob.download_as_bytes())


def test_omitted_fields_come_from_the_source(make: Callable[..., Reply]) -> None:
    first = make(easing="ease-in", negative_prompt="red", guidance=2.5, fps=7, public=False)
    second = make(from_walk=first["id"], guidance=3)
    assert second["prompts"] == first["prompts"]
    assert second["settings"] == {**first["settings"], "guidance": 3}
    assert (second["frames_total"], second["public"]) == (16, False)


def test_the_same_walk_again_renders_nothing(make: Callable[..., Reply], painter: Painter) -> None:
    first = make()
    second = make(from_walk=first["id"], hold=2, loop="pingpong", fps=24)
    assert painter.painted == []
    assert positions(second) == positions(first)
    assert len(second["sequence"]) == 30 + 2 * 2


@pytest.mark.parametrize("changes", [{"seed": 8}, {"steps": 3}, {"guidance": 1.0}, {"negative_prompt": "red"}])
def test_a_different_picture_is_rendered(make: Callable[..., Reply], painter: Painter, changes: Reply) -> None:
    make(from_walk=make()["id"], **changes)
    assert len(painter.painted) == 16


def test_a_batch_that_is_the_same_is_reused_in_another_walk(make: Callable[..., Reply], painter: Painter) -> None:
    """Another easing changes only where frames lie after the first pass."""
    first = make(frames=24, pacing="even")
    make(from_walk=first["id"], easing="ease-in")
    assert len(painter.painted) == 16


def test_equal_frames_in_another_batch_are_rendered(make: Callable[..., Reply], painter: Painter) -> None:
    """They would differ in the last bit from what the walk's own batch gives."""
    make(from_walk=make(frames=8)["id"], prompts=["a giraffe", "a battleship", "a cat"])
    assert len(painter.painted) == 8


@pytest.mark.parametrize("other", [{"revision": "other"}, {"dtype": "float16"}, {"device": "pencil"}])
def test_frames_of_another_kind_are_rendered(
    make: Callable[..., Reply], painter: Painter, other: dict[str, str]
) -> None:
    """Otherwise `walk.json` would say that they were made with what only copied them."""
    first = make()
    painter.made_with = painter.made_with.model_copy(update=other)
    make(from_walk=first["id"])
    assert len(painter.painted) == 16


def test_the_source_may_be_deleted(api: TestClient, make: Callable[..., Reply]) -> None:
    first = make()
    second = make(from_walk=first["id"])
    remove(api, first)
    for name in objects(second):
        assert bucket._bucket().blob(name).exists()


def test_missing_frames_of_the_source_are_rendered(make: Callable[..., Reply], painter: Painter) -> None:
    first = make()
    for name in objects(first)[:5]:
        bucket._bucket().delete_blob(name)
    second = make(from_walk=first["id"])
    assert sorted(painter.painted) == positions(first)  # both batches whole
    assert len(second["frames"]) == 16


def test_damaged_frames_of_the_source_are_rendered(make: Callable[..., Reply], painter: Painter) -> None:
    first = make()
    bucket._bucket().blob(objects(first)[3]).upload_from_string(b"damaged", "image/png")
    second = make(from_walk=first["id"])
    assert positions(first)[3] in painter.painted
    assert len(painter.painted) == 8  # its batch
    assert picture(second, positions(second)[3]).shape == (64, 64, 3)


def test_a_source_that_is_deleted_during_the_copy_is_rendered(
    api: TestClient, make: Callable[..., Reply], painter: Painter
) -> None:
    first = make()
    second = api.post("/v1/walks", json={"from_walk": first["id"]}).json()
    remove(api, first)
    assert len(finish(api, painter, second)["frames"]) == 16
    assert len(painter.painted) == 16


def test_a_reused_frame_that_is_lost_is_copied_again(
    api: TestClient, make: Callable[..., Reply], painter: Painter
) -> None:
    first = make()
    second = api.post("/v1/walks", json={"from_walk": first["id"]}).json()
    painter.painted = []
    seen = second

    def rendered() -> bool:
        nonlocal seen
        runner.run(Worker(), ChunkKind.RENDER, render_task.render)
        seen = api.get(f"/v1/walks/{second['id']}").json()
        return bool(seen["status"] == "assembling")

    until(rendered)
    bucket._bucket().delete_blob(objects(seen)[4])
    finish(api, painter, second)
    assert painter.painted == []


def test_a_walk_that_the_caller_may_not_see_is_no_source(api: TestClient, make: Callable[..., Reply]) -> None:
    private = make(public=False)
    api.cookies.clear()
    refused = api.post("/v1/walks", json={"from_walk": private["id"]})
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"field": "from_walk", "message": f"There is no walk {private['id']}"},
    ]


def test_a_walk_that_became_private_is_no_source(
    api: TestClient, make: Callable[..., Reply], painter: Painter
) -> None:
    first = make()
    api.cookies.clear()
    second = api.post("/v1/walks", json={"from_walk": first["id"]}).json()
    with transaction() as session:
        session.execute(update(Walk).where(Walk.id == first["id"]).values(public=False))
    finish(api, painter, second)
    assert len(painter.painted) == 16


def test_an_expired_walk_is_no_source(api: TestClient, make: Callable[..., Reply]) -> None:
    first = make()
    with transaction() as session:
        session.execute(update(Walk).values(status=WalkStatus.EXPIRED))
    refused = api.post("/v1/walks", json={"from_walk": first["id"]})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "from_walk")
    assert "expired" in refused.json()["errors"][0]["message"]


def test_an_invalid_combination_is_refused_with_its_field(api: TestClient, make: Callable[..., Reply]) -> None:
    first = make(weights=[1, 2])
    refused = api.post("/v1/walks", json={"from_walk": first["id"], "weights": [1, 2, 3]})
    assert refused.json()["errors"] == [{"field": "weights", "message": "must have one value per prompt: 2, got 3"}]
    longer = api.post("/v1/walks", json={"from_walk": first["id"], "prompts": ["a", "b", "c"]})
    assert (longer.status_code, longer.json()["settings"]["weights"]) == (202, None)
