"""Latents: in the file of a frame, and from there to the frames between."""

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from momalisa.errors import ObjectCorruptError
from tests.carrying_files import SPEC
from worker.media import encoders
from worker.media.metadata import frame_caption
from worker.rendering.interpolation import difference, interpolate

CAPTION = frame_caption(SPEC, "momalisa-mini", 0.5)
GENERATOR = np.random.default_rng(7)
PICTURE = GENERATOR.integers(0, 256, (64, 48, 3), dtype=np.uint8)
LATENTS = GENERATOR.standard_normal((4, 8, 6)).astype(np.float16)


def test_a_file_gives_back_its_latents_and_other_programs_open_it(tmp_path: Path) -> None:
    data = encoders.encode_png(PICTURE, CAPTION, LATENTS)
    assert np.array_equal(encoders.read_latents(data), LATENTS)
    assert encoders.read_latents(data).dtype == np.float16
    file = tmp_path / "frame.png"
    file.write_bytes(data)
    with av.open(str(file)) as container:
        [frame] = container.decode(video=0)
    assert isinstance(frame, av.VideoFrame)
    for opened in (encoders.decode_png(data), np.asarray(Image.open(file)), frame.to_ndarray(format="rgb24")):
        assert np.array_equal(opened, PICTURE)
    plain = encoders.encode_png(PICTURE, CAPTION)
    assert 0 < len(data) - len(plain) - LATENTS.nbytes <= 140  # what it costs: two bytes a number, and a header
    assert Image.open(BytesIO(data)).info == Image.open(BytesIO(plain)).info


def test_a_program_that_changes_the_picture_drops_the_latents(tmp_path: Path) -> None:
    changed = tmp_path / "changed.png"
    Image.open(BytesIO(encoders.encode_png(PICTURE, CAPTION, LATENTS))).rotate(90).save(changed)
    with pytest.raises(ObjectCorruptError, match="latents"):
        encoders.read_latents(changed.read_bytes())


def test_a_file_without_latents_or_damaged_is_refused() -> None:
    data = encoders.encode_png(PICTURE, CAPTION, LATENTS)
    place = data.index(b"NUMPY")
    for wrong in (
        encoders.encode_png(PICTURE, CAPTION),
        data[: place + 100],
        data[:place] + b"numpy" + data[place + 5 :],
        b"",
        b"GIF89a",
    ):
        with pytest.raises(ObjectCorruptError, match="not a valid PNG file with latents"):
            encoders.read_latents(wrong)


def test_latents_between_keys_lie_on_the_line_where_those_lie_on_one() -> None:
    line = {place: (LATENTS.astype(np.float32) * place).astype(np.float16) for place in (0.25, 0.5, 0.625, 1.0)}
    found = interpolate({place: tuple(line) for place in (0.3, 0.5, 0.6, 0.999)} | {0.55: (0.5, 0.625)}, line)
    assert {latents.dtype for latents in found.values()} == {np.dtype(np.float32)}
    for place, latents in found.items():
        assert np.allclose(latents, LATENTS.astype(np.float32) * place, atol=0.005)


def test_the_error_of_a_picture_is_its_mean_and_its_worst_block() -> None:
    other = PICTURE // 2
    other[4:8, 8:12] += 48
    assert difference(other, other) == (0, 0)
    assert difference(other, PICTURE // 2) == pytest.approx((48 * 16 / PICTURE[..., 0].size, 48))
