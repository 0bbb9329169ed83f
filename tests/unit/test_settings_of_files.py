"""Every file of a walk holds its settings, and gives them back."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from momalisa.cli.files import NoSettingsError, settings_of
from momalisa.domain.pins import Batch, Pins
from momalisa.domain.spec import WalkSpec
from tests.unit.test_assembly import pictures
from worker.media import contact_sheet, encoders, gif
from worker.media.encoders import Picture
from worker.media.metadata import frame_caption, walk_caption, walk_request

SPEC = WalkSpec(
    prompts=('a <giraffe> & "co"', "ein Schlachtschiff für Österreich, 戦艦 🦒"),
    frames=40,
    seed=2**64 - 1,
    seeds=(2**64 - 1, 8),
    negative_prompt="",
    steps=3,
    guidance=4,
    width=96,
    height=64,
    fps=12,
)
PINS = Pins(batches=[Batch(size=40, positions=[index / 39 for index in range(40)])])
BODY = walk_request(SPEC, "momalisa-mini", PINS)
CAPTION = walk_caption(SPEC, "momalisa-mini", PINS)
SHOWN = pictures(3)


def frames() -> Iterator[Picture]:
    return iter(SHOWN)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "walk.gif": lambda path: gif.write(path, frames, 12, CAPTION, 8_000_000),
    "walk.mp4": lambda path: encoders.write_mp4(path, frames, 12, CAPTION),
    "walk.webp": lambda path: encoders.write_webp(path, frames, 12, CAPTION),
    "poster.webp": lambda path: encoders.write_poster(path, SHOWN[0], CAPTION),
    "sheet.png": lambda path: contact_sheet.write(path, iter(SHOWN), ["", "", ""], "", CAPTION),
    "walk.zip": lambda path: encoders.write_zip(path, [("walk.json", json.dumps(BODY).encode()), ("0.png", b"")]),
    "walk.json": lambda path: path.write_text(json.dumps(BODY)),
}


@pytest.fixture(scope="module", params=WRITERS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / str(request.param)
    WRITERS[path.name](path)
    return path


def test_a_file_gives_back_the_request_that_makes_its_walk(file: Path) -> None:
    assert settings_of(file) == json.loads(json.dumps(BODY))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.floats(0, 1), flipped=st.integers(0, 10**6))
def test_a_damaged_file_is_refused_or_read(file: Path, tmp_path: Path, cut: float, flipped: int) -> None:
    data = bytearray(file.read_bytes())
    data[flipped % min(len(data), 2000)] ^= 0xFF
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data[: round(len(data) * cut)])
    with contextlib.suppress(NoSettingsError):  # nothing else
        assert settings_of(damaged)["prompts"]


def test_a_frame_gives_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "000.png"
    path.write_bytes(encoders.encode_png(SHOWN[0], frame_caption(SPEC, "momalisa-mini", 1.0)))
    found = settings_of(path)
    assert (found["prompts"], found["seed"]) == ([SPEC.prompts[1]], 8)


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_a_file_of_others_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"theirs.{kind}"
    Image.fromarray(SHOWN[0]).save(path)
    with pytest.raises(NoSettingsError, match="has no settings of a walk"):
        settings_of(path)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"prompts": 7}', b"PK\3\4", b"\0\0\0\x10ftypisom"])
def test_anything_else_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "anything"
    path.write_bytes(data)
    with pytest.raises(NoSettingsError, match="has no settings of a walk"):
        settings_of(path)
