"""Settings for each stop and each leg: seeds, negative prompts, frames."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from momalisa.db.models import Walk
from momalisa.db.session import transaction
from tests.clients import accepted

Reply = dict[str, Any]

ORDER = {"prompts": ["a giraffe", "a battleship", "a rose"], "steps": 2, "width": 64, "height": 64}


def make(api: TestClient, **order: Any) -> Reply:
    return accepted(api, order if "from_walk" in order else {**ORDER, **order})


def test_a_walk_may_have_a_seed_and_a_negative_prompt_for_each_stop(api: TestClient) -> None:
    walk = make(api, seeds=[7, 11, 13], negative_prompts=["", "red", ""])
    settings = walk["settings"]
    assert (settings["seed"], settings["seed_to"], settings["seeds"]) == (7, None, [7, 11, 13])
    assert (settings["negative_prompt"], settings["negative_prompts"]) == ("", ["", "red", ""])


def test_frames_may_be_given_for_each_leg(api: TestClient) -> None:
    walk = make(api, leg_frames=[2, 6], pacing="linear")
    assert walk["frames_total"] == 9
    assert [frame["position"] for frame in walk["frames"]] == pytest.approx(
        [0, 0.25, *(0.5 + index / 12 for index in range(7))]
    )
    assert make(api, leg_frames=[2, 6, 3], loop="closed")["frames_total"] == 11


@pytest.mark.parametrize("seed", [0, 2**32, 2**53 - 1, 2**53, 2**63, 2**64 - 1])
@pytest.mark.parametrize("as_text", [False, True])
def test_seeds_keep_all_digits(api: TestClient, seed: int, as_text: bool) -> None:
    """A browser reads numbers as doubles; all that it may get wrong must be text."""
    sent: int | str = str(seed) if as_text else seed
    walk = make(api, seeds=[sent, 1, sent], public=False)
    shown = json.dumps(json.loads(json.dumps(walk["settings"]), parse_int=lambda digits: int(float(digits))))
    read = json.loads(shown)
    assert [int(each) for each in (read["seed"], *read["seeds"])] == [seed, seed, 1, seed]
    assert isinstance(read["seed"], str) == (seed >= 2**53)
    with transaction() as session:
        found = session.get_one(Walk, walk["id"]).spec
    assert (found.seed, found.seeds) == (seed, (seed, 1, seed))
    assert make(api, from_walk=walk["id"])["settings"] == walk["settings"]


def test_a_remix_replaces_a_list_by_its_short_form_and_back(api: TestClient) -> None:
    first = make(api, seeds=[7, 11, 13], negative_prompts=["a", "b", "c"], leg_frames=[3, 4])
    second = make(api, from_walk=first["id"], seed=5, negative_prompt="d", frames=12)
    changed = {"seed": 5, "seeds": None, "negative_prompt": "d", "negative_prompts": None, "leg_frames": None}
    assert second["settings"] == first["settings"] | changed
    assert second["frames_total"] == 12
    third = make(api, from_walk=second["id"], seeds=[1, 2, 3], negative_prompts=["", "", "e"], leg_frames=[1, 1])
    assert third["settings"]["seeds"] == [1, 2, 3]
    assert (third["settings"]["negative_prompt"], third["settings"]["negative_prompts"]) == ("", ["", "", "e"])
    assert third["frames_total"] == 3


def test_a_remix_with_other_stops_has_no_lists_for_the_old_ones(api: TestClient) -> None:
    first = make(api, seeds=[7, 11, 13], negative_prompts=["a", "b", "c"], leg_frames=[3, 4], weights=[1, 2, 1])
    second = make(api, from_walk=first["id"], prompts=["a cat", "a dog"])
    listed = ("seeds", "negative_prompts", "leg_frames", "weights")
    assert [second["settings"][name] for name in listed] == [None] * 4
    assert (second["settings"]["seed"], second["frames_total"]) == (7, 8)
    closed = make(api, from_walk=first["id"], loop="closed")
    assert (closed["settings"]["leg_frames"], closed["settings"]["seeds"]) == (None, [7, 11, 13])


def test_a_negative_prompt_of_a_stop_without_effect_is_said(api: TestClient) -> None:
    [warning] = make(api, negative_prompts=["", "red", ""], guidance=1)["warnings"]
    assert "has no effect" in warning
