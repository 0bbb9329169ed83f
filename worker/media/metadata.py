"""The metadata inside image and video files: prompts, seed, model, positions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from momalisa.domain.path import leg
from momalisa.domain.pins import Pins
from momalisa.domain.spec import SAMPLING_SETTINGS, WalkSpec
from momalisa.domain.states import Made


@dataclass(frozen=True)
class Caption:
    """A title for people and details for programs."""

    title: str
    """ "a giraffe to a battleship"."""
    details: str
    """A JSON object in plain ASCII."""

    def xmp(self) -> bytes:
        """Return both as an XMP packet, as WebP files carry it (ISO 16684-1, with Dublin Core)."""
        return _XMP.format(title=escape(self.title), details=escape(self.details)).encode()


def walk_request(spec: WalkSpec, model: str, pins: Pins) -> dict[str, object]:
    """Return a request to the API that makes the same walk again: its settings, and what pins its frames."""
    settings = spec.model_dump(mode="json", exclude_none=True)
    return {**settings, "model": model, "pinned": pins.model_dump(mode="json")}


def walk_caption(spec: WalkSpec, model: str, pins: Pins, made: Mapping[str, float | None] | None = None) -> Caption:
    """Return the caption of a walk: what makes it again (`walk_request`), and how its frames were made.

    Args:
        spec: the walk.
        model: its name.
        pins: of its frames.
        made: `momalisa.domain.states.made_counts`; left out for frames that are not recorded.
    """
    about = {"software": "MoMALisa", **walk_request(spec, model, pins)} | ({"made": made} if made else {})
    return Caption(" to ".join(spec.prompts), json.dumps(about))


def frame_caption(spec: WalkSpec, model: str, position: float, *, interpolated: bool = False) -> Caption:
    """Return the caption of a frame: everything that decides its pixels, and nothing else about its walk.

    So the caption is right in every walk that reuses the frame. That of an interpolated frame says so, since its
    pixels are only almost those that its settings give.
    """
    number, t = leg(position, spec.legs)
    around = slice(number, number + 2) if t not in {0, 1} else slice(number + int(t), number + int(t) + 1)
    prompts, negatives = spec.stops[around], spec.negatives[around]
    noise = spec.noise(position)
    shown = spec.model_copy(
        update={
            "prompts": prompts,
            "negative_prompt": negatives[0],
            "negative_prompts": negatives if len(set(negatives)) > 1 else None,
            "seed": noise.start,
            "seed_to": noise.end,
        }
    )
    names = {
        "prompts",
        "interpolation",
        "seed",
        "seed_to",
        "negative_prompt",
        "negative_prompts",
        *SAMPLING_SETTINGS,
    }
    details = {"software": "MoMALisa", "model": model, "t": round(t, 9)}
    details |= shown.model_dump(mode="json", include=names, exclude_none=True)
    if noise.end is not None:
        details["seed_progress"] = noise.t
    if interpolated:
        details["made"] = Made.INTERPOLATED
    return Caption(" to ".join(prompts), json.dumps(details))


_XMP = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/">
<xmp:CreatorTool>MoMALisa</xmp:CreatorTool>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{title}</rdf:li></rdf:Alt></dc:title>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{details}</rdf:li></rdf:Alt></dc:description>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
