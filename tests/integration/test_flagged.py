"""Flagged frames: what is shown instead, with the real model and an added safety checker."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from transformers import CLIPImageProcessor

from momalisa.domain.states import ChunkKind
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from tests.clients import accepted
from tests.integration.conftest import completed
from tests.stand_ins import Checker
from worker import assemble_task, render_task, runner
from worker.media import encoders
from worker.process.worker import Worker
from worker.rendering.pipeline import Renderer


@pytest.fixture
def make(api: TestClient, renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], Any]:
    """Make a walk of four frames, in this process, some of which the checker flags."""
    pipeline = renderer.pipeline
    monkeypatch.setattr(render_task, "renderer", lambda: renderer)

    def make_walk(rows: set[int]) -> Any:
        monkeypatch.setattr(pipeline, "safety_checker", Checker(rows))
        monkeypatch.setattr(pipeline, "feature_extractor", CLIPImageProcessor())
        order = {"prompts": ["a cat", "a castle"], "frames": 4, "steps": 2, "seed": 7, "pacing": "linear"}
        walk = api.post("/v1/walks", json=order).raise_for_status().json()
        runner.run(Worker(), ChunkKind.RENDER, render_task.render)
        runner.run(Worker(), ChunkKind.ASSEMBLE, assemble_task.assemble)
        return api.get(f"/v1/walks/{walk['id']}").json()

    return make_walk


def objects(walk: Any) -> list[str]:
    return sorted(name for name in there(walk) if "/frames/" in name)


def there(walk: Any) -> list[str]:
    """Return the names of all objects of a walk."""
    return [blob.name for blob in bucket._bucket().list_blobs(prefix=bucket.folder_name(walk["id"]))]


def pictures(walk: Any) -> list[encoders.Picture]:
    (name,) = (name for name in there(walk) if name.endswith("/walk.zip"))
    with zipfile.ZipFile(io.BytesIO(bucket._bucket().blob(name).download_as_bytes())) as archive:
        return [encoders.decode_png(archive.read(f"{index:03}.png")) for index in range(4)]


def test_a_flagged_frame_is_replaced_by_its_neighbour_with_a_warning(make: Callable[[set[int]], Any]) -> None:
    walk = make({1})
    assert (walk["status"], walk["progress"]["frames_done"]) == ("succeeded", 4)
    assert [frame["flagged"] for frame in walk["frames"]] == [False, True, False, False]
    assert walk["frames"][1]["url"] == walk["frames"][0]["url"]
    assert walk["warnings"] == [
        "1 frame was replaced by its neighbour, because the model's safety checker flagged it."
    ]
    assert len(objects(walk)) == 3  # the black picture is not in the bucket
    first, held, third, last = pictures(walk)
    assert np.array_equal(first, held)
    assert not np.array_equal(held, third)
    assert min(picture.max() for picture in (first, held, third, last)) > 0


def test_flagged_frames_at_the_ends_are_replaced_by_the_others(make: Callable[[set[int]], Any]) -> None:
    walk = make({0, 1, 3})
    assert {frame["url"] for frame in walk["frames"]} == {walk["frames"][2]["url"]}
    assert walk["warnings"] == [
        "3 frames were replaced by their neighbours, because the model's safety checker flagged them.",
        "All frames look the same, so the WebP is a still picture.",
    ]
    assert len(objects(walk)) == 1


def test_a_walk_with_only_flagged_frames_fails_and_says_why(make: Callable[[set[int]], Any]) -> None:
    walk = make({0, 1, 2, 3})
    assert (walk["status"], walk["error"]["code"], walk["artifacts"]) == ("failed", "flagged", {})
    assert "safety checker" in walk["error"]["message"]
    assert objects(walk) == []


def test_a_walk_without_flagged_frames_has_no_warning(make: Callable[[set[int]], Any]) -> None:
    walk = make(set())
    assert (walk["status"], walk["warnings"]) == ("succeeded", [])
    assert not any(frame["flagged"] for frame in walk["frames"])
    assert len({frame["url"] for frame in walk["frames"]}) == 4


def test_a_missing_frame_is_rendered_again_and_flagged_frames_stay_flagged(
    make: Callable[[set[int]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = bucket.read
    lost: list[str] = []

    def lose_one(stored: StoredObject, **named: Any) -> bytes:
        if not lost and stored.name.endswith("1.000000000.png"):
            lost.append(stored.name)
            bucket._bucket().blob(stored.name).delete()
        return read(stored, **named)

    monkeypatch.setattr(bucket, "read", lose_one)
    walk = make({1})
    assert (walk["status"], walk["progress"]["frames_done"]) == ("assembling", 3)
    runner.run(Worker(), ChunkKind.RENDER, render_task.render)
    runner.run(Worker(), ChunkKind.ASSEMBLE, assemble_task.assemble)
    [first, held, *_] = pictures(walk)
    assert np.array_equal(first, held)
    assert len(objects(walk)) == 3


def test_an_evenly_paced_walk_continues_despite_flagged_frames(
    make: Callable[[set[int]], Any], api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = make({0})  # keeps its safety checker
    order = {"prompts": ["a cat", "a castle"], "frames": 12, "steps": 1, "seed": 7, "pacing": "even"}
    walk = completed(api, accepted(api, order))
    assert walk["progress"]["frames_done"] == 12
    assert walk["frames"][0]["flagged"]
    assert all(frame["url"] for frame in walk["frames"])
