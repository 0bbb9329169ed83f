"""The label of a walk as the server writes it; `frontend/static/label.js` writes the same."""

from datetime import datetime
from typing import Any

from api.schemas.views import MadeCounts, WalkView

LOOPS = {"pingpong": "back and forth", "closed": "closed"}
EASINGS = {"ease-in": "starts slowly", "ease-out": "arrives slowly", "ease-in-out": "slow at both ends"}
PATHS = {"slerp": "along the arc"}
MADE = {"denoised": "painted", "interpolated": "interpolated", "copied": "copied"}


def facts(walk: WalkView) -> list[tuple[str, str]]:
    """Return what a museum says of a work: names and values, without those that are empty."""
    settings: Any = walk.settings  # whose fields are made from those of WalkSpec
    seeds = settings.seeds or [each for each in (settings.seed, settings.seed_to) if each is not None]
    left_out = [settings.negative_prompt, *(settings.negative_prompts or ())]
    motion = (LOOPS.get(settings.loop), EASINGS.get(settings.easing), PATHS.get(settings.interpolation))
    found = [
        ("Seeds" if len(seeds) > 2 else "Seed", " to ".join(map(str, seeds))),  # noqa: PLR2004
        ("Size", f"{settings.width} × {settings.height}"),
        ("Model", walk.model),
        ("Date", _long_date(walk.finished_at or walk.created_at)),
        ("Motion", ", ".join(filter(None, motion))),
        ("Left out", ", ".join(filter(None, left_out))),
        ("Frames", _made(walk.made) if walk.made.interpolated else ""),
        ("Accession", f"{walk.created_at.year}.{str(walk.id)[:8]}"),
    ]
    return [(name, value) for name, value in found if value]


def _made(made: MadeCounts) -> str:
    return ", ".join(f"{getattr(made, how)} {words}" for how, words in MADE.items() if getattr(made, how))


def _long_date(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


def kilobytes(size: int) -> str:
    """Return a number of bytes in words; 1 kB is 1000 bytes. Halves are rounded up, as scripts do."""
    if size >= 9_950_000:  # noqa: PLR2004
        return f"{(size + 500_000) // 1_000_000} MB"
    return f"{size / 1e6:.1f} MB" if size >= 995_000 else f"{max(1, (size + 500) // 1000)} kB"  # noqa: PLR2004
