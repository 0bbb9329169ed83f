import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from api.schemas.requests import MAX_PROMPT, WalkRequest
from api.schemas.views import WalkSettings
from api.web import form
from momalisa.cli import main
from momalisa.domain import path
from momalisa.domain.content import content_hashes
from momalisa.domain.spec import SETTINGS, WalkSpec
from momalisa.settings import ROOT

MakeSpec = Callable[..., WalkSpec]


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (128, 128, (1080, 1080)),
        (192, 128, (1620, 1080)),
        (136, 128, (1148, 1080)),
        (2048, 64, (4096, 128)),
        (64, 1088, None),
    ],
)
def test_large_files_have_1080_lines_as_far_as_decoders_allow(
    spec: MakeSpec, width: int, height: int, expected: tuple[int, int] | None
) -> None:
    assert spec(width=width, height=height, large=True).large_size == expected
    assert spec(width=width, height=height).large_size is None


@pytest.mark.parametrize("loop", ["none", "pingpong", "closed"])
@pytest.mark.parametrize(("prompts", "frames"), [(("a", "b"), 2), (("a", "b", "c"), 7)])
@pytest.mark.parametrize("hold", [0, 3])
def test_the_number_of_shown_frames_is_known_in_advance(
    spec: MakeSpec, loop: str, prompts: tuple[str, ...], frames: int, hold: int
) -> None:
    made = spec(prompts=prompts, frames=frames, loop=loop, hold=hold)
    positions = path.positions(frames, made.timing)
    assert made.frames_shown == len(path.sequence(positions, made.timing.legs, hold=hold, loop=made.loop))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"seed_to": 8},
        {"seeds": (7, 8)},
        {"negative_prompt": "red"},
        {"negative_prompts": ("", "red")},
        {"steps": 4},
        {"guidance": 4.5},
        {"scheduler": "euler"},
        {"width": 64},
        {"height": 64},
        {"prompts": ("a cat", "a battleship")},
        {"interpolation": "slerp"},
    ],
)
def test_everything_that_decides_pixels_changes_the_hash(spec: MakeSpec, changes: dict[str, Any]) -> None:
    here = [0.25]
    assert content_hashes(spec(), here, "m") != content_hashes(spec(**changes), here, "m")


def test_another_model_position_or_batch_changes_the_hash(spec: MakeSpec) -> None:
    others = [([0.25, 1.0], "m", 8), ([0.25, 1.0], "n", 8), ([0.5, 1.0], "m", 8), ([0.25, 0.9], "m", 8)]
    others += [([0.25, 1.0], "m", 4), ([1.0, 0.25], "m", 8)]
    assert len({content_hashes(spec(), *rest)[0] for rest in others}) == len(others)


def test_frames_of_one_chunk_that_are_rendered_in_two_batches_are_hashed_as_such(spec: MakeSpec) -> None:
    whole = [0.0, 0.25, 0.5, 1.0]
    apart = [content_hashes(spec(), half, "m", 2) for half in (whole[:2], whole[2:])]
    assert content_hashes(spec(), whole, "m", 2) == apart[0] + apart[1]


@pytest.mark.parametrize(
    "changes",
    [{"frames": 99}, {"fps": 5}, {"hold": 3}, {"loop": "pingpong"}, {"pacing": "even"}, {"easing": "ease-in"}],
)
def test_settings_that_only_place_or_show_frames_do_not_change_the_hash(
    spec: MakeSpec, changes: dict[str, Any]
) -> None:
    assert content_hashes(spec(), [0.25], "m") == content_hashes(spec(**changes), [0.25], "m")


def test_a_stop_has_the_same_hash_wherever_it_lies(spec: MakeSpec) -> None:
    short, long = spec(prompts=("a", "b")), spec(prompts=("c", "b", "a"), interpolation="slerp", loop="closed")
    assert content_hashes(short, [0], "m") == content_hashes(long, [2 / 3], "m")
    assert content_hashes(short, [1], "m") == content_hashes(long, [1 / 3], "m")


def test_a_leg_has_the_same_hashes_wherever_it_lies(spec: MakeSpec) -> None:
    short, long = spec(prompts=("a", "b")), spec(prompts=("c", "a", "b", "d"))
    assert content_hashes(short, [0.3], "m") == content_hashes(long, [1.3 / 3], "m")


@pytest.mark.parametrize(
    ("changes", "refined"),
    [
        ({"frames": 8}, True),
        ({"frames": 3}, False),
        ({"hold": 2, "fps": 30, "loop": "pingpong", "large": True}, True),
        ({"loop": "closed"}, False),
        ({"easing": "ease-in"}, False),
        ({"pacing": "even"}, False),
        ({"weights": (1.0, 2.0)}, False),
        ({"seed": 8}, False),
    ],
)
def test_a_walk_is_refined_if_only_frames_are_added(spec: MakeSpec, changes: dict[str, Any], refined: bool) -> None:
    assert spec(**changes).refines(spec()) is refined


def test_old_specs_are_read_with_the_settings_they_were_made_with() -> None:
    old = {
        "prompts": ["a", "b"],
        "frames": 4,
        "seed": 7,
        "negative_prompt": "",
        "steps": 3,
        "guidance": 4.0,
        "width": 128,
        "height": 128,
        "fps": 12,
    }
    spec = WalkSpec.model_validate(old)
    assert (spec.pacing, spec.easing, spec.loop, spec.hold) == ("linear", "linear", "none", 0)


def test_every_setting_can_be_requested_and_is_shown() -> None:
    assert SETTINGS.keys() == WalkSpec.model_fields.keys() - {"prompts"}
    assert SETTINGS.keys() <= WalkRequest.model_fields.keys()
    assert WalkSettings.model_fields.keys() == SETTINGS.keys() - {"frames", "model"}
    assert SETTINGS.keys() <= inspect.signature(main.walk).parameters.keys()
    assert form.NUMBERS["guidance"] is float


def test_the_plain_form_cuts_no_prompt_that_is_accepted_or_refused() -> None:
    for length in (401, MAX_PROMPT, MAX_PROMPT + 1):
        sent = form.walk_request(form.read(f"prompts={'a' * length}&prompts=b".encode()))
        assert sent["prompts"] == ["a" * length, "b"]


def test_a_setting_is_declared_in_one_file() -> None:
    sources = [path for folder in ("api", "momalisa") for path in (ROOT / folder).rglob("*.py")]
    declared = [path.name for path in sources if re.search(r"^\s*seed_to:", path.read_text(), re.MULTILINE)]
    assert declared == ["spec.py"]
    named = {path.name for path in (ROOT / "api").rglob("*.py") if "seed_to" in path.read_text()}
    assert named == {"label.py"}  # which shows it in words
