"""Every file of a walk holds its settings, and gives them back."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from api.schemas.requests import MODEL_CHOOSES
from momalisa.cli.files import FIELDS, NoSettingsError, settings_of
from momalisa.domain.spec import FOR_EACH_STOP, KEEPS_PINS, SHORT_FORMS
from momalisa.settings import ROOT
from tests.carrying_files import BODY, SPEC, WRITERS
from tests.carrying_files import SHOWN as PICTURES
from worker.media import encoders
from worker.media.metadata import frame_caption


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


@pytest.mark.parametrize("position", [1.0, 0.5])
def test_a_frame_is_not_taken_for_a_walk(tmp_path: Path, position: float) -> None:
    path = tmp_path / "000.png"
    path.write_bytes(encoders.encode_png(PICTURES[0], frame_caption(SPEC, "momalisa-mini", position)))
    with pytest.raises(NoSettingsError, match="has no settings of a whole walk"):
        settings_of(path)


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_a_file_of_others_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"theirs.{kind}"
    Image.fromarray(PICTURES[0]).save(path)
    with pytest.raises(NoSettingsError, match="has no settings of a whole walk"):
        settings_of(path)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"prompts": 7}', b"PK\3\4", b"\0\0\0\x10ftypisom"])
def test_anything_else_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "anything"
    path.write_bytes(data)
    with pytest.raises(NoSettingsError, match="has no settings of a whole walk"):
        settings_of(path)


def constant(script: str, name: str) -> Any:
    """Return a constant of a script: an array, a set of one, or an object."""
    found = re.search(rf"^const {name} = (?:new Set\()?([\[{{].*?[\]}}])\)?;$", script, re.MULTILINE | re.DOTALL)
    assert found, name
    quoted = re.sub(r"(\w+):", r'"\1":', found[1])
    return json.loads(re.sub(r",\s*([\]}])", r"\1", quoted))


def test_the_browser_takes_the_same_from_a_file() -> None:
    script = (ROOT / "frontend" / "static" / "file-settings.js").read_text()
    assert sorted(constant(script, "FIELDS")) == sorted(FIELDS)
    assert set(constant(script, "KEEPS_PINS")) == {*KEEPS_PINS, "public"}
    assert constant(script, "FOR_EACH_STOP") == [*FOR_EACH_STOP]
    assert constant(script, "SHORT_FORMS") == {listed: [*short] for listed, short in SHORT_FORMS.items()}
    assert set(constant(script, "SUIT_THE_MODEL")) == {*MODEL_CHOOSES, "model", "pinned"}
