"""Examples of responses, for the documentation of the API."""

from typing import Any

from api.schemas.views import WalkSettings
from momalisa.domain.spec import WalkSpec

WALK_ID = "0b0ff9a4-0c4c-4d3a-9c3e-6a1f0a3f6f57"
_BUCKET = f"https://storage.googleapis.com/momalisa/walks/{WALK_ID}/Ex3fCnR0Tz2hqk0wB1uVMg"
_API = f"https://momalisa.example/v1/walks/{WALK_ID}"

_SPEC = WalkSpec(
    prompts=("a giraffe", "a battleship"),
    frames=3,
    pacing="even",
    loop="pingpong",
    seed=7,
    negative_prompt="",
    steps=8,
    guidance=2.0,
    width=128,
    height=128,
    fps=12,
)
_SETTINGS = WalkSettings.model_validate(_SPEC, from_attributes=True)

SUMMARY: dict[str, Any] = {
    "id": WALK_ID,
    "status": "succeeded",
    "done": True,
    "prompts": ["a giraffe", "a battleship"],
    "frames_total": 3,
    "settings": _SETTINGS.model_dump(mode="json"),
    "from_walk": None,
    "model": "momalisa-mini",
    "public": True,
    "progress": {"frames_done": 3, "frames_total": 3},
    "mine": False,
    "artifacts": {
        "gif": {"url": f"{_BUCKET}/walk.gif", "bytes": 23456, "width": 128, "height": 128, "enlarged_from": None}
    },
    "urls_expire_at": None,
    "warnings": [],
    "error": None,
    "created_at": "2026-11-23T12:00:00Z",
    "started_at": "2026-11-23T12:00:01Z",
    "finished_at": "2026-11-23T12:00:04Z",
    "urls": {"self": _API, "web": f"https://momalisa.example/walks/{WALK_ID}"},
}
"""A walk in a list."""

WALK: dict[str, Any] = SUMMARY | {
    "progress": {
        **SUMMARY["progress"],
        "queue_position": None,
        "eta_seconds": None,
        "waiting_for": None,
        "started_at": "2026-11-23T12:00:01Z",
    },
    "made": {"denoised": 3, "interpolated": 0, "copied": 0, "error": None},
    "frames": [
        {
            "index": index,
            "position": position,
            "url": f"{_BUCKET}/frames/{position:.9f}.png",
            "made": "denoised",
            "error": None,
            "flagged": False,
        }
        for index, position in enumerate((0.0, 0.5, 1.0))
    ],
    "sequence": [0, 1, 2, 1],
}

QUEUED: dict[str, Any] = WALK | {
    "status": "queued",
    "done": False,
    "progress": {
        "frames_done": 0,
        "frames_total": 3,
        "queue_position": 0,
        "eta_seconds": 3,
        "waiting_for": None,
        "started_at": None,
    },
    "artifacts": {},
    "started_at": None,
    "finished_at": None,
    "made": dict.fromkeys(("denoised", "interpolated", "copied"), 0) | {"error": None},
    "frames": [{**frame, "url": None, "made": None} for frame in WALK["frames"]],
}

CANCELED: dict[str, Any] = WALK | {"status": "canceled", "artifacts": {}}

PRIVATE: dict[str, Any] = WALK | {"public": False, "mine": True}

PAGE: dict[str, Any] = {"walks": [SUMMARY], "next_cursor": None}


MODEL: dict[str, Any] = {
    "name": "momalisa-mini",
    "about": "It paints one thing on white, in the manner of 3D emoji. It reads English and has seen no paintings.",
    "subjects": ["giraffe", "ship", "strawberry"],
    "pipeline": "StableDiffusionPipeline",
    "size": 128,
    "max_size": 256,
    "coherent_size": 128,
    "multiple": 8,
    "steps": 8,
    "guidance": 2.0,
    "guided": True,
    "negative_above": 1.0,
    "sampler": "DDIMScheduler",
    "schedulers": ["ddim", "deis", "dpmpp_2m", "euler", "heun", "pndm", "unipc"],
    "tokens": 32,
    "windows": 8,
    "emphasis": True,
    "dense": True,
    "default": True,
    "workers": 2,
}


def content(example: object) -> dict[str, Any]:
    """Return the OpenAPI `content` of a response with an example of its JSON."""
    return {"content": {"application/json": {"example": example}}}
