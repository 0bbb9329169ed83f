"""The figure of the About page."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import figure
from momalisa.description import describe
from momalisa.domain.spec import WalkSpec
from momalisa.settings import BUNDLED_MODEL
from worker.rendering.pipeline import Renderer


def test_the_figure_shows_what_the_bundled_model_paints_today() -> None:
    model = describe("momalisa-mini", Path(BUNDLED_MODEL))
    spec = WalkSpec(
        prompts=figure.PROMPTS,
        frames=2,
        seed=figure.SEED,
        negative_prompt="",
        steps=model.steps,
        guidance=model.guidance,
        width=model.size,
        height=model.size,
        fps=12,
    )
    painted = Renderer(BUNDLED_MODEL, batch_size=2, dtype="float32").render(spec, [0.0, 1.0]).pictures
    with Image.open(figure.FOLDER / "figure.webp") as image:
        shown = np.asarray(image.convert("RGB"))
    start, end = shown[:, : model.size].astype(int), shown[:, -model.size :].astype(int)
    assert np.abs(start - painted[0]).mean() < 4
    assert np.abs(end - painted[1]).mean() < 4
    assert np.abs(start - painted[1]).mean() > 20
