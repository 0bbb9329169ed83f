"""Makes the pictures on the website that show a walk, with the bundled model: `python -m benchmarks.figure`.

They are the figures of About and the card of pages that show no walk of their own. It takes about a minute.
"""

import json
from itertools import accumulate, pairwise
from statistics import fmean

import numpy as np
from PIL import Image

from momalisa import description
from momalisa.domain.pacing import distance
from momalisa.domain.spec import WalkSpec
from momalisa.settings import ROOT
from worker.admission import dense_walk
from worker.media import card
from worker.media.thumbnail import thumbnail
from worker.rendering.loaded import renderer

PROMPTS = ("a giraffe", "a battleship")
FRAMES, LONG, SEED = 65, 240, 7

FOLDER = ROOT / "frontend" / "static"
LONG_WALK = ROOT / "frontend" / "pages" / "long-walk.json"

DATA = """\
/** How far the picture has come at each of the {count} equal steps of figure.webp: differences of thumbnails. */
export const TRAVELLED = [
  {shares},
];
"""


def main() -> None:
    """Make all of them."""
    model = description.of_settings()
    spec = WalkSpec(
        prompts=PROMPTS,
        frames=FRAMES,
        seed=SEED,
        negative_prompt="",
        steps=model.steps,
        guidance=model.guidance,
        width=model.size,
        height=model.size,
        fps=12,
        pacing="linear",
    )
    draw_equal_steps(spec)
    draw_long_walk(spec.model_copy(update={"frames": LONG, "pacing": "even", "exact": False}))


def draw_equal_steps(spec: WalkSpec) -> None:
    """Render a walk in equal steps; save its pictures, how far the picture has come at each, and the card."""
    pictures = renderer().render(spec, [index / (FRAMES - 1) for index in range(FRAMES)]).pictures
    steps = [distance(one, other) for one, other in pairwise(map(thumbnail, pictures))]
    travelled = [far / sum(steps) for far in accumulate(steps, initial=0.0)]
    Image.fromarray(np.concatenate(pictures, axis=1)).save(FOLDER / "figure.webp", quality=80, method=6)
    shares = ", ".join(f"{share:.4g}" for share in travelled)
    (FOLDER / "figure-data.js").write_text(DATA.format(count=FRAMES, shares=shares))
    middle = min(range(FRAMES), key=lambda index: abs(travelled[index] - 0.5))
    triptych = [pictures[0], pictures[middle], pictures[-1]]
    card.write(FOLDER / "card.jpg", triptych, PROMPTS, "Name two artworks, and watch one become the other.")


def draw_long_walk(spec: WalkSpec) -> None:
    """Make a dense walk; save the positions of its frames by how they were made, and the mean expected error."""
    walk = dense_walk(renderer(), spec)
    places = {position: round(position, 4) for position in sorted(walk.pictures)}
    interpolated = set(walk.interpolated)
    found = {
        "painted": [place for position, place in places.items() if position not in interpolated],
        "interpolated": [place for position, place in places.items() if position in interpolated],
        "error": round(fmean(walk.expected[position] for position in interpolated), 2),
    }
    LONG_WALK.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
