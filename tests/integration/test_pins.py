"""The same walk again: `walk.json` gives the same frames, byte for byte, whatever its walk was made from."""

import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from math import inf
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from momalisa.db.session import transaction
from momalisa.domain.states import ArtifactKind
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.walks import queries
from tests.clients import accepted
from tests.integration.conftest import completed
from worker import assemble_task, render_task
from worker.rendering.pipeline import Renderer

Reply = dict[str, Any]
Make = Callable[..., Reply]

ORDER = {"prompts": ["a giraffe", "a battleship"], "seed": 7, "steps": 2, "guidance": 2, "width": 64, "height": 64}


@pytest.fixture
def make(api: TestClient, renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a walk with the bundled model, on a server with a BATCH_SIZE."""
    monkeypatch.setattr(render_task, "renderer", lambda: renderer)
    kind = ArtifactKind.ZIP  # the others take longer than to render
    monkeypatch.setattr(assemble_task, "FILES", {kind: assemble_task.FILES[kind]})

    def make_walk(body: Reply, batch_size: int = 4) -> Reply:
        monkeypatch.setenv("BATCH_SIZE", str(batch_size))
        settings.cache_clear()
        return completed(api, accepted(api, body))

    return make_walk


def walk_json(walk: Reply) -> Reply:
    """Return the `walk.json` of a finished walk."""
    name = walk["artifacts"]["zip"]["url"].partition("/momalisa/")[2]
    with zipfile.ZipFile(BytesIO(bucket._bucket().blob(name).download_as_bytes())) as archive:
        found: Reply = json.loads(archive.read("walk.json"))
    return found


def checksums(walk: Reply) -> list[tuple[float, str | None]]:
    """Return the position and the checksum of each frame."""
    with transaction() as session:
        return [(frame.position, frame.crc32c) for frame in queries.get(session, walk["id"], viewer=None).frames]


batch_sizes = st.integers(2, 5)
walks = st.fixed_dictionaries(
    {
        "prompts": st.sampled_from([ORDER["prompts"], ["a giraffe", "a battleship", "a rose"]]),
        "frames": st.integers(3, 6),
        "pacing": st.sampled_from(["even", "even", "linear"]),
        "loop": st.sampled_from(["none", "closed"]),
    }
)
changes = st.sampled_from(
    [{"frames": 7}, {"frames": 9}, {"frames": 10}, {"hold": 2, "fps": 5}, {"easing": "ease-in"}, {"loop": "closed"}]
)


@hypothesis_settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(walks, st.lists(st.tuples(changes, batch_sizes), max_size=2), batch_sizes, batch_sizes)
def test_a_walk_json_gives_the_same_frames(
    make: Make, first: Reply, chain: list[tuple[Reply, int]], size: int, other_size: int
) -> None:
    walk = make({**ORDER, **first}, size)
    for change, changed_size in chain:
        more = {**change, "frames": max(walk["frames_total"], change.get("frames", 0))}
        walk = make({"from_walk": walk["id"], **more}, changed_size)
    again = make(walk_json(walk), other_size)
    assert checksums(again) == checksums(walk)
    assert walk_json(again) == walk_json(walk)
    assert (again["warnings"], again["sequence"]) == ([], walk["sequence"])


def test_a_refined_walk_keeps_the_batches_of_its_source(make: Make) -> None:
    coarse = make({**ORDER, "frames": 6, "pacing": "even"}, 3)
    fine = make({"from_walk": coarse["id"], "frames": 12}, 5)
    kept = walk_json(coarse)["pinned"]["batches"]
    assert walk_json(fine)["pinned"]["batches"][: len(kept)] == kept
    assert set(checksums(coarse)) <= set(checksums(fine))
    assert {batch["size"] for batch in walk_json(fine)["pinned"]["batches"]} == {3}


def test_a_refined_linear_walk_has_equal_steps(make: Make) -> None:
    coarse = make({**ORDER, "frames": 5, "pacing": "linear"})
    for frames in (9, 12):
        fine = make({"from_walk": coarse["id"], "frames": frames})
        assert [position for position, _ in checksums(fine)] == [index / (frames - 1) for index in range(frames)]
        assert (set(checksums(coarse)) <= set(checksums(fine))) == (frames == 9)


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({"revision": "another"}, "This walk was first made with another revision of its model"),
        ({"dtype": "float8"}, "This walk was first made with another number format than "),
        ({"device": "abacus"}, "This walk was first made with another device than "),
    ],
)
def test_a_walk_that_cannot_be_the_same_says_so(make: Make, changed: Reply, warning: str) -> None:
    body = walk_json(make({**ORDER, "frames": 2}))
    body["pinned"]["made_with"] |= changed
    again = make(body)
    assert [each.startswith(warning) for each in again["warnings"]] == [True]
    assert walk_json(again)["pinned"]["made_with"] != body["pinned"]["made_with"]


def test_a_batch_that_is_too_large_for_the_server_is_divided_and_the_walk_says_so(make: Make) -> None:
    body = walk_json(make({**ORDER, "frames": 4, "pacing": "linear", "width": 256, "height": 256, "steps": 1}, 4))
    again = make(body, 2)
    assert again["warnings"] == [
        "This walk was first made in larger batches than this server makes, 2 frames at most: its pictures may "
        "differ from those."
    ]
    assert [batch["size"] for batch in walk_json(again)["pinned"]["batches"]] == [2, 2]


def test_memory_that_runs_out_is_said_too(make: Make, renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    body = walk_json(make({**ORDER, "frames": 4, "pacing": "linear"}))
    monkeypatch.setattr(renderer._denoising, "most_pixels", 2 * 64 * 64)
    again = make(body)
    [warning] = again["warnings"]
    assert warning.startswith("This walk was first made in batches of 4 frames, for which a worker has too little")
    assert [batch["size"] for batch in walk_json(again)["pinned"]["batches"]] == [2, 2]
    monkeypatch.setattr(renderer._denoising, "most_pixels", inf)
    third = make(walk_json(again))
    assert (third["warnings"], walk_json(third)) == ([], walk_json(again))


def batches(*positions: list[float], size: int = 4) -> list[Reply]:
    return [{"size": size, "positions": each} for each in positions]


@pytest.mark.parametrize(
    ("order", "pinned", "complaint"),
    [
        ({"frames": 3}, batches([0, 1]), "has 2 positions for 3 frames; leave it out to have other frames"),
        ({"frames": 3}, batches([0, 1], [1]), "has a position twice"),
        ({"frames": 2}, batches([0, 0.9]), "must have a position at each stop"),
        (
            {"frames": 2, "loop": "closed"},
            batches([0, 1]),
            "must have a position at each stop, and a closed walk none",
        ),
        ({"frames": 3}, batches([0, 1, 0.5]), "batch 0 has positions that are not in ascending order"),
        ({"frames": 3}, batches([0, 0.5, 1], size=2), "batch 0 has 3 positions, and its size is 2"),
    ],
)
def test_pins_that_do_not_suit_the_walk_are_refused(
    api: TestClient, order: Reply, pinned: list[Reply], complaint: str
) -> None:
    refused = api.post("/v1/walks", json={**ORDER, **order, "pinned": {"batches": pinned}})
    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert error["field"] == "pinned"
    assert error["message"].startswith(complaint)


@pytest.mark.parametrize(
    ("pinned", "field"),
    [
        ({"batches": batches([0, 2])}, "pinned.batches[0].positions[1]"),
        ({"batches": batches([0, 1], size=65)}, "pinned.batches[0].size"),
        ({"batches": []}, "pinned.batches"),
        ({"batches": batches([0, 1]), "made_with": {"revision": "r"}}, "pinned.made_with.dtype"),
    ],
)
def test_pins_that_are_none_are_refused_with_their_field(api: TestClient, pinned: Reply, field: str) -> None:
    refused = api.post("/v1/walks", json={**ORDER, "frames": 2, "pinned": pinned})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
