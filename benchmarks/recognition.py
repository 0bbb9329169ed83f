"""Recognition: does the bundled model paint what it is asked for? `python -m benchmarks.recognition`.

A painted picture is recognised as the nearest of the training pictures. For one of its labels, the model should
paint that thing; for a word that is in no caption, one of the things whose labels are closest in meaning, by the
sentence encoder that taught the text encoder.
"""

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import quality
from models.train import teacher
from models.train.captions import HELD_OUT
from models.train.pictures import SIZE, Gallery
from momalisa.domain.spec import WalkSpec
from momalisa.settings import ROOT, settings
from worker.rendering.pipeline import Pictures, Renderer

GALLERY = ROOT / ".momalisa" / "train" / "pictures"
CARD = ROOT / "models" / "momalisa-mini" / "README.md"

OWN_LABELS = 200
SEED = 7
GUIDANCE = 2.0
STEPS = (20, 8)
SAME_MEANING = 5
"""Number of labels closest in meaning to a word that count as right answers."""
SMALL = 32
"""Width and height at which pictures are compared."""
BATCH, SHORT = 25, 5
"""Pictures per batch; the short form paints one batch of each kind."""
SHEET = (4, 12)
"""Rows and columns of pictures in the model card."""


@dataclass(frozen=True)
class Question:
    """A prompt with the labels that are right answers."""

    prompt: str
    answers: frozenset[str]


def own_labels(gallery: Gallery) -> list[Question]:
    """Return a random but fixed choice of labels of three-dimensional pictures."""
    labels = sorted({subject.label for subject in gallery.subjects if subject.style == "3d"})
    drawn = random.Random(SEED).sample(labels, OWN_LABELS)  # noqa: S311
    return [Question(label, frozenset({label})) for label in drawn]


def unseen_words(gallery: Gallery) -> list[Question]:
    """Return the held-out words, each with the labels closest in meaning."""
    labels = sorted({subject.label for subject in gallery.subjects})
    words = sorted(HELD_OUT)
    closeness = teacher.embed(words) @ teacher.embed(labels).T
    closest = closeness.topk(SAME_MEANING).indices.tolist()
    return [
        Question(word, frozenset(labels[index] for index in row)) for word, row in zip(words, closest, strict=True)
    ]


def small(pictures: Pictures) -> NDArray[np.float32]:
    """Return pictures scaled down, each flattened to a row."""
    count, height, width, channels = pictures.shape
    cells = pictures.reshape(count, SMALL, height // SMALL, SMALL, width // SMALL, channels)
    means: NDArray[np.float32] = cells.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)
    return means


def nearest(pictures: Pictures, art: Pictures) -> NDArray[np.int64]:
    """Return the index of the nearest training picture for each picture."""
    distances = torch.cdist(torch.from_numpy(small(pictures)), torch.from_numpy(small(art)))
    found: NDArray[np.int64] = distances.argmin(dim=1).numpy()
    return found


def paint(renderer: Renderer, prompts: Sequence[str], steps: int) -> Pictures:
    """Return the model's pictures of prompts, all from the same noise, like the stops of walks."""
    painted = []
    for start in range(0, len(prompts), renderer.batch_size):
        stops = tuple(prompts[start : start + renderer.batch_size])
        spec = WalkSpec(
            prompts=(*stops, ""),
            frames=len(stops) + 1,
            seed=SEED,
            negative_prompt="",
            steps=steps,
            guidance=GUIDANCE,
            width=SIZE,
            height=SIZE,
            fps=1,
        )
        painted.append(renderer.render(spec, [number / len(stops) for number in range(len(stops))]).pictures)
    return np.concatenate(painted)


@dataclass(frozen=True)
class Figures:
    """How well questions were answered."""

    recognised: float
    """Share of the pictures whose nearest training picture has a right label."""
    ground: float
    """Mean level of the borders of pictures; 255 is white."""
    sharpness: float
    """Mean difference of neighbouring pixels ÷ that of the nearest training pictures."""


def figures(gallery: Gallery, questions: Sequence[Question], pictures: Pictures) -> Figures:
    """Return the figures of pictures as answers to questions."""
    found = nearest(pictures, gallery.images)
    right = [
        gallery.subjects[index].label in question.answers for index, question in zip(found, questions, strict=True)
    ]
    edges = np.concatenate([pictures[:, (0, -1)], pictures[:, :, (0, -1)].swapaxes(1, 2)], axis=1)
    return Figures(float(np.mean(right)), float(edges.mean()), contrast(pictures) / contrast(gallery.images[found]))


def contrast(pictures: Pictures) -> float:
    """Return the mean difference of neighbouring pixels, in levels of 255."""
    levels = pictures.astype(np.int16)
    return float(np.mean([np.abs(np.diff(levels, axis=axis)).mean() for axis in (1, 2)]))


def row(name: str, gallery: Gallery, questions: Sequence[Question], steps: int, pictures: Pictures) -> str:
    """Return a row of the table."""
    result = figures(gallery, questions, pictures)
    looks = f"{result.ground:.1f} | {result.sharpness:.2f}"
    return f"| {len(questions)} {name} | {steps} | {result.recognised:.0%} | {looks} |"


def save_sheet(pictures: Pictures) -> None:
    """Write some pictures side by side, for the model card."""
    rows = [np.concatenate(list(some), axis=1) for some in np.split(pictures[: math.prod(SHEET)], SHEET[0])]
    Image.fromarray(np.concatenate(rows)).save(CARD.with_name("sheet.webp"), quality=85)


def main(arguments: Sequence[str]) -> None:
    """Measure, and write a table and some of the pictures into the model's card."""
    parser = quality.parser("benchmarks.recognition", __doc__)
    parser.add_argument("--model", default=settings().model, help="a folder")
    options = parser.parse_args(arguments)
    renderer = Renderer(options.model, batch_size=SHORT if options.short else BATCH)
    gallery = Gallery.load(GALLERY)
    asked = {
        "labels of its own": own_labels(gallery),
        "words that no caption holds": unseen_words(gallery),
    }
    lines = ["| asked for | steps | recognised | ground | sharpness |", "|---|---|---|---|---|"]
    painted = {}
    for name, questions in asked.items():
        some = questions[:SHORT] if options.short else questions
        for steps in STEPS:
            painted[name] = paint(renderer, [question.prompt for question in some], steps)
            lines.append(row(name, gallery, some, steps, painted[name]))
            print(lines[-1], flush=True)
    if not options.short and options.model == settings().model:
        quality.write("recognition", lines, CARD)
        save_sheet(painted["labels of its own"])


if __name__ == "__main__":
    main(sys.argv[1:])
