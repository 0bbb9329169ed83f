"""What a model can do, read from its configuration; it needs neither torch nor weights.

Each default is that of the settings, else of the file `momalisa.json` beside the model's index, else of what the
configuration tells of how the model was distilled, else of its family (`domain.families`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from momalisa.domain.families import FAMILIES, Family, family_of
from momalisa.domain.model import LARGEST, MOST_STEPS, SMALLEST, Model
from momalisa.domain.spec import Scheduler
from momalisa.errors import ModelError
from momalisa.location import WEIGHTS, locate, weighted
from momalisa.settings import ROOT, settings
from momalisa.telemetry.logging import logger

log = logger(__name__)

INDEX, OWN = "model_index.json", "momalisa.json"
"""The index of a pipeline of diffusers, and our own file beside it, which may set fields of `Model`."""

KNOWN = ROOT / "models" / "known"
"""Configurations of common models that are passed on as one file, by diffusers' name of their architecture."""

SAMPLERS: tuple[Scheduler, ...] = get_args(Scheduler)

OWN_SAMPLER_ONLY = re.compile("LCM|TCD|EDM|FlowMatch|SCM")
"""Samplers, by their class, that a model was made for: with another it paints something else or nothing."""

DISTILLED = re.compile(r"turbo|lightning|hyper|schnell|distilled|(?<![a-z])lcm(?![a-z])", re.IGNORECASE)
STEPS = re.compile(r"(?<!\d)(\d\d?)[-_ ]?steps?(?![a-z])", re.IGNORECASE)
"""In the name of a model or a LoRA: that it was distilled, and for how many steps."""

DISTILLED_STEPS = 4

NOT_ITS_OWN = frozenset({"name", "pipeline", "sampler", "emphasis", "windows", "dense"})
"""Fields that the file of a model may not set."""

MOST_ABOUT = 300
"""Characters of a description that are taken from a card."""


def describe(name: str, folder: Path, also: Sequence[str] = ()) -> Model:
    """Return the description of a model.

    Args:
        name: by which walks choose it.
        folder: with its index and the configurations of its parts; weights are not read.
        also: names of what is added to it, such as LoRAs, which may make it need fewer steps.

    Raises:
        ModelError: if the folder holds no pipeline that can render walks.
    """
    index = read_json(folder / INDEX)
    kind = str(index.get("_class_name"))
    family = family_of(kind, str(folder))
    denoiser = _config(folder / ("transformer" if index.get("transformer", [None])[0] else "unet"))
    sampler = _config(folder / "scheduler")
    class_of_sampler = str((index.get("scheduler") or [None, ""])[1] or sampler.get("_class_name", ""))
    size = _size(family, denoiser, _config(folder / "vae"))
    fields: dict[str, Any] = {
        "about": _about(folder / "README.md"),
        "size": size,
        "multiple": family.multiple,
        "steps": family.steps,
        "guidance": family.guidance,
        "fewest_steps": family.fewest_steps,
        "most_steps": _most_steps(class_of_sampler, sampler),
        "negative_above": family.negative_above,
        "emphasis": family.emphasis,
        "windows": family.windows,
        "schedulers": SAMPLERS if family.samplers and _takes_others(class_of_sampler, sampler) else (),
        "tokens": family.tokens or _tokens(folder / "tokenizer"),
        **_distilled(kind, index, denoiser, class_of_sampler, sampler, (name, *also)),
        **_own(folder / OWN),
    }
    return overridden(
        Model.model_validate(_with_largest({"name": name, "pipeline": kind, "sampler": class_of_sampler, **fields}))
    )


@cache
def of_settings() -> Model:
    """Return the description of the model that the settings name, as far as this process can tell.

    Its folder need not be on this machine, and may hold something else than it should: a worker refuses that.
    """
    name, place = settings().model_name, locate(settings().model)
    try:
        if place.path is not None and (folder := configuration(place.path)):
            return describe(name, folder, [lora.name for lora, _ in map(weighted, settings().loras)])
    except ModelError as error:
        log.warning("model not described", reason=str(error))
    return unknown(name)


@cache
def as_settings_have_it(reported: Model) -> Model:
    """Return the description that a worker reported, with what the settings of this process choose.

    Where they do not suit it, it stays as it is, with one warning: a request cannot mend that.
    """
    try:
        return overridden(reported)
    except ModelError as error:
        log.warning("settings do not suit the model", model=reported.name, reason=str(error))
        return reported


def configuration(path: Path) -> Path | None:
    """Return the folder that holds the configuration of a model: it, or for a file of weights one beside it."""
    folders = [path] if path.suffix not in WEIGHTS else [path.with_suffix(""), path.parent]
    return next((folder for folder in folders if (folder / INDEX).is_file()), None)


def unknown(name: str) -> Model:
    """Return the description of a model of which nothing is known yet: that of Stable Diffusion 1.5."""
    return overridden(Model.model_validate(_like_stable_diffusion(name)))


def _like_stable_diffusion(name: str) -> dict[str, Any]:
    family = FAMILIES["StableDiffusionPipeline"]
    fields = {
        "size": min(512, settings().max_size or 512),
        "multiple": family.multiple,
        "steps": family.steps,
        "guidance": family.guidance,
        "emphasis": family.emphasis,
        "windows": family.windows,
    }
    return _with_largest({"name": name, "pipeline": "", "schedulers": SAMPLERS, **fields})


def overridden(model: Model) -> Model:
    """Return a description with what the settings of this process choose for it."""
    given = settings()
    chosen = {
        "size": given.image_size,
        "steps": given.default_steps,
        "guidance": given.default_guidance,
        "max_size": given.max_size
        or (given.image_size and max(model.max_size, min(2 * given.image_size, LARGEST))),
    }
    found = model.model_copy(update={name: value for name, value in chosen.items() if value is not None})
    if found.size > found.max_size:
        raise ModelError(f"The size of {found.name}, {found.size}, is larger than MAX_SIZE ({found.max_size}).")
    if found.size % found.multiple:
        raise ModelError(f"IMAGE_SIZE must be a multiple of {found.multiple} for {found.name}, got {found.size}.")
    return found


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelError: if it cannot be read, or is something else.
    """
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file} is not a JSON object.")
    return found


def _config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a part of a model; nothing if it has none."""
    for name in ("config.json", "scheduler_config.json"):
        if (folder / name).is_file():
            return read_json(folder / name)
    return {}


def _size(family: Family, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
    """Return the native width and height of a model: the side of its latents, times what its decoder enlarges."""
    side = denoiser.get("sample_size")
    if isinstance(side, list):
        side = max(side)
    if not isinstance(side, int) or family.size:
        return family.size or 512
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [0] * 4
    native: int = side * 2 ** (len(blocks) - 1)
    return max(SMALLEST, min(native // family.multiple * family.multiple, LARGEST))


def _with_largest(fields: dict[str, Any]) -> dict[str, Any]:
    return {"max_size": min(2 * int(fields["size"]), LARGEST), **fields}


def _tokens(tokenizer: Path) -> int | None:
    limit = read_json(tokenizer / "tokenizer_config.json").get("model_max_length") if tokenizer.is_dir() else None
    return int(limit) if isinstance(limit, int) and limit < 10**6 else None  # some have 10^30 for "no limit"


def _takes_others(kind: str, config: Mapping[str, Any]) -> bool:
    """Return whether a model renders with samplers of other classes than its own."""
    flows = config.get("use_flow_sigmas") or str(config.get("prediction_type", "")).startswith("flow")
    return not OWN_SAMPLER_ONLY.search(kind) and not flows


def _most_steps(kind: str, config: Mapping[str, Any]) -> int:
    """Return how many steps the sampler of a model can take; some skip steps of a longer schedule."""
    steps: int = config.get("original_inference_steps", 50) if re.match("LCM|TCD", kind) else MOST_STEPS
    return steps


def _distilled(
    kind: str,
    index: Mapping[str, Any],
    denoiser: Mapping[str, Any],
    class_of_sampler: str,
    sampler: Mapping[str, Any],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return what differs for a model that was distilled to need few steps, and no second pass for guidance."""
    named = any(DISTILLED.search(name) for name in names)
    steps = next((int(found[1]) for found in map(STEPS.search, reversed(names)) if found), DISTILLED_STEPS)
    found: dict[str, Any] = {}
    if kind == "FluxPipeline" and denoiser.get("guidance_embeds") is False:
        found = {"steps": steps, "guidance": 0.0, "guided": False}
    elif kind == "Flux2KleinPipeline" and index.get("is_distilled"):
        found = {"steps": steps, "guidance": 1.0, "guided": False, "negative_above": None}
    elif kind in {"StableDiffusionPipeline", "StableDiffusionXLPipeline"}:
        plain = sampler.get("prediction_type", "epsilon") == "epsilon"
        euler = class_of_sampler in {"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"}
        if class_of_sampler == "LCMScheduler":
            found = {"steps": steps, "guidance": 1.0}
        elif named or (euler and plain and sampler.get("timestep_spacing") == "trailing"):
            found = {"steps": steps, "guidance": 0.0}
    return found


def _own(file: Path) -> dict[str, Any]:
    """Return the fields of the description that the model's own file sets."""
    if not file.is_file():
        return {}
    given = read_json(file)
    if unknown := given.keys() - (Model.model_fields.keys() - NOT_ITS_OWN):
        raise ModelError(f"{file} sets {', '.join(sorted(unknown))}, which a model does not have.")
    try:
        Model.model_validate({**_like_stable_diffusion(""), **given})
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ModelError(f"{file}: {'; '.join(wrong)}.") from error
    return given


def _about(card: Path) -> str:
    """Return what a model was trained for: the words that its card says a prompt needs, or its first paragraph."""
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")
    head, body = re.fullmatch(r"(?:\s*---\n(.*?)\n---\n)?(.*)", text, re.DOTALL).groups("")  # type: ignore[union-attr]
    if trigger := re.search(r"^instance_prompt:\s*['\"]?(.+?)['\"]?\s*$", head, re.MULTILINE):
        return f"It was trained on pictures of “{trigger[1]}”: say so in the prompt."[:MOST_ABOUT]
    for paragraph in re.split(
        r"\n\s*\n", re.sub(r"```.*?```|<[^>]*>|^#[^\n]*", "", body, flags=re.DOTALL | re.MULTILINE)
    ):
        words = re.sub(r"!\[[^\]]*\]\([^)]*\)|(?<!!)\[([^\]]*)\]\([^)]*\)|[*_`]{1,3}", r"\1", paragraph)
        plain = " ".join(words.split())
        if re.match(r"[A-Z“\"]", plain) and " " in plain:
            return plain if len(plain) <= MOST_ABOUT else f"{plain[: MOST_ABOUT - 1].rsplit(' ', 1)[0]}…"
    return ""
