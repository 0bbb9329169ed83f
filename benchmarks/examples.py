"""Makes the walks in docs/walks.md, with the whole system: `python -m benchmarks.examples`."""

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from momalisa.client import Client
from momalisa.domain.spec import slug
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT

ORDERS: list[dict[str, Any]] = [
    {"prompts": ["a giraffe", "a battleship"], "seed": 7},
    {"prompts": ["a rose", "a butterfly"], "seed": 7, "loop": "pingpong", "hold": 6, "easing": "ease-in-out"},
    {"prompts": ["an apple", "a planet", "a full moon"], "seed": 7, "loop": "closed", "hold": 4},
    {"prompts": ["an owl", "an alarm clock"], "seed": 7, "loop": "pingpong", "hold": 4},
    {"prompts": ["a cat", "a castle"], "seed": 7, "easing": "ease-in-out"},
    {"prompts": ["a dolphin", "a rocket"], "seeds": [7, 11]},
    {"prompts": ["a tomato", "a frog", "a blueberry"], "seeds": [7, 11, 13], "loop": "closed", "hold": 4},
    {"prompts": ["a penguin", "a piano"], "seeds": [3, 5], "loop": "pingpong", "hold": 4},
]

FRAMES = 48

FOLDER = ROOT / "docs" / "walks"


def main() -> None:
    """Make the walks, and save the GIF and the contact sheet of each."""
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="momalisa-examples-") as folder,
        stack.started(LocalStack(Path(folder), port=free_port()), print) as system,
        Client(system.url) as client,
    ):
        for walk in [client.submit(frames=FRAMES, **order) for order in ORDERS]:
            for seen in client.watch(walk):
                made = seen
            name = FOLDER / slug(made["prompts"])
            client.save(made, "gif", name.with_suffix(".gif"))
            sheet = Image.open(io.BytesIO(client.download(made["artifacts"]["sheet"]["url"])))
            sheet.convert("RGB").save(name.with_suffix(".webp"), quality=85)
            print(f"Saved {name}.gif and its contact sheet.")


if __name__ == "__main__":
    main()
