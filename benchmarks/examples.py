"""Makes the walks in docs/walks.md and on the home page, with the whole system: `python -m benchmarks.examples`."""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from momalisa.client import Client, Walk
from momalisa.domain.file_names import slug
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

PAIRS = ROOT / "frontend" / "pages" / "pairs.json"
"""The pairs that the home page proposes."""

HOME: dict[str, Any] = {"frames": 32, "fps": 16, "seed": 7, "loop": "pingpong", "hold": 12}
"""Settings of their walks: a video of about 50 kB."""

HOME_FOLDER = ROOT / "frontend" / "static" / "walks"


def main() -> None:
    """Make the walks of the document, of the home page, or both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=("document", "home"), help="make only these")
    only = parser.parse_args().only
    with (
        tempfile.TemporaryDirectory(prefix="momalisa-examples-") as folder,
        stack.started(LocalStack(Path(folder), port=free_port()), print) as system,
        Client(system.url) as client,
    ):
        if only != "home":
            save_walks_of_document(client)
        if only != "document":
            save_walks_of_home(client)


def save_walks_of_document(client: Client) -> None:
    """Save the GIF and the contact sheet of each walk."""
    for made in finished(client, [{"frames": FRAMES, **order} for order in ORDERS]):
        name = FOLDER / slug(made["prompts"])
        client.save(made, "gif", name.with_suffix(".gif"))
        _picture(client, made["artifacts"]["sheet"]["url"]).save(name.with_suffix(".webp"), quality=85)
        print(f"Saved {name}.gif and its contact sheet.")


def save_walks_of_home(client: Client) -> None:
    """Save the MP4 and the first frame of each pair's walk."""
    for made in finished(client, [{"prompts": pair, **HOME} for pair in json.loads(PAIRS.read_text())]):
        name = HOME_FOLDER / slug(made["prompts"])
        client.save(made, "mp4", name.with_suffix(".mp4"))
        _picture(client, made["frames"][0]["url"]).save(name.with_suffix(".webp"), quality=95)
        print(f"Saved {name}.mp4 and its first frame.")


def finished(client: Client, orders: Sequence[dict[str, Any]]) -> Iterator[Walk]:
    """Submit all walks, and return each when it is finished."""
    for walk in [client.submit(**order) for order in orders]:
        *_, made = client.watch(walk)
        yield made


def _picture(client: Client, url: str | None) -> Image.Image:
    assert url
    return Image.open(io.BytesIO(client.download(url))).convert("RGB")


if __name__ == "__main__":
    main()
