"""Makes the pictures on the website that show a walk, with the bundled model: `python -m benchmarks.figure`.

They are the figure of About, which can be scrubbed, and the card of pages that show no walk of their own.
"""

from itertools import accumulate, pairwise

import numpy as np
from PIL import Image

from momalisa import description
from momalisa.domain.pacing import distance
from momalisa.domain.spec import WalkSpec
from momalisa.settings import ROOT
from worker.media import card
from worker.media.thumbnail import thumbnail
from worker.rendering.loaded import renderer

PROMPTS = ("a giraffe", "a battleship")
FRAMES, SEED = 65, 7

FOLDER = ROOT / "frontend" / "static"

DATA = """\
/** How far the picture has come at each of the {count} equal steps of figure.webp: differences of thumbnails. */
export const TRAVELLED = [
  {shares},
];
"""


def main() -> None:
    """Render a walk in equal steps, and save its pictures in a row and how far the picture has come at each."""
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
    pictures = renderer().render(spec, [index / (FRAMES - 1) for index in range(FRAMES)]).pictures
    steps = [distance(one, other) for one, other in pairwise(map(thumbnail, pictures))]
    travelled = [far / sum(steps) for far in accumulate(steps, initial=0.0)]
    Image.fromarray(np.concatenate(pictures, axis=1)).save(FOLDER / "figure.webp", quality=80, method=6)
    shares = ", ".join(f"{share:.4g}" for share in travelled)
    (FOLDER / "figure-data.js").write_text(DATA.format(count=FRAMES, shares=shares))
    middle = min(range(FRAMES), key=lambda index: abs(travelled[index] - 0.5))
    triptych = [pictures[0], pictures[middle], pictures[-1]]
    card.write(FOLDER / "card.jpg", triptych, PROMPTS, "Name two artworks, and watch one become the other.")


if __name__ == "__main__":
    main()
