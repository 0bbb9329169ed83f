"""From prompts and positions to pictures; the only user of diffusers and torch.

Every frame of a walk starts from the same noise (unless the walk travels to another) and differs from its
neighbours only in the text embedding, a point on the way between two prompts' embeddings. The embeddings go into
the model's own stock pipeline, so that any pipeline of the Stable Diffusion family (1.x, 2.x, XL) renders walks.

The denoiser and the decoder, where the time goes, may compute in half precision; what lies between them stays in
float32: the embeddings, the noise, the sampler's sums, the pixels (`docs/decisions/0010-precision.md`).
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from numpy.typing import NDArray

from momalisa.domain import path as maths
from momalisa.domain.spec import Interpolation, Scheduler, WalkSpec
from momalisa.domain.states import Flag
from momalisa.errors import ModelError
from momalisa.telemetry import metrics
from momalisa.telemetry.logging import logger
from worker.rendering.compiled import compile_for
from worker.rendering.malloc import keep_memory

log = logger(__name__)

DETERMINISTIC_SCHEDULERS = frozenset(
    {
        "DDIMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    }
)
"""Samplers that draw no noise after the first: the same embedding gives the same picture at every attempt."""

SCHEDULERS: dict[Scheduler, str] = {
    "ddim": "DDIMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""The classes of diffusers behind the names that a walk can choose."""

LEFT_OUT: dict[Scheduler, tuple[str, object]] = {"ddim": ("clip_sample", False), "pndm": ("skip_prk_steps", True)}
"""What a sampler needs to render latents in few steps, where the model's own sampler does not name it."""

PRK_STEPS = 4
"""Below so many steps PNDM cannot begin by Runge-Kutta, as it would unless `skip_prk_steps` is set."""

FEW_TOKENS = 256
"""Up to so many of a picture, a CPU computes attention faster in plain products than in PyTorch's fused form."""

PARALLEL = 0.9995
"""Cosine of an angle so small that the arc is taken for a line."""

Pictures = NDArray[np.uint8]
"""Shape (frames, height, width, 3), RGB."""


@dataclass(frozen=True)
class Embedding:
    """The embedding of one prompt, or of several as rows of a batch."""

    prompt: torch.Tensor
    """Shape (rows, tokens, width)."""
    negative: torch.Tensor | None
    pooled: torch.Tensor | None = None
    """Shape (rows, width), of models that have it."""
    negative_pooled: torch.Tensor | None = None

    def between(self, other: "Embedding", along: float, interpolation: Interpolation = "lerp") -> "Embedding":
        """Return the point `along` in [0, 1] of the way from this embedding to another, token by token."""
        interpolate = slerp if interpolation == "slerp" else lerp
        return _fieldwise(lambda a, b: interpolate(a, b, along), self, other)

    @staticmethod
    def batch(rows: Sequence["Embedding"]) -> "Embedding":
        """Return embeddings as the rows of one."""
        return _fieldwise(lambda *tensors: torch.cat(tensors), *rows)


def _fieldwise(combine: Callable[..., torch.Tensor], *embeddings: Embedding) -> Embedding:
    """Return the embedding whose tensors are those of `embeddings`, combined; all have the same ones."""

    def combined(name: str) -> Any:
        column = [getattr(embedding, name) for embedding in embeddings]
        return None if column[0] is None else combine(*column)

    return Embedding(**{field.name: combined(field.name) for field in fields(Embedding)})


def lerp(a: torch.Tensor, b: torch.Tensor, along: float) -> torch.Tensor:
    """Return the point `along` in [0, 1] of the straight line from a to b."""
    return (1 - along) * a + along * b


def slerp(a: torch.Tensor, b: torch.Tensor, along: float) -> torch.Tensor:
    """Return the point `along` in [0, 1] of the arc from a to b, vector by vector of their last dimension.

    Where two vectors lie on one line through the origin there is no arc, and the straight line is taken.
    Source: Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
    """
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).unsqueeze(-1)
    angle = torch.acos(cosine.clamp(-PARALLEL, PARALLEL))
    arc = (torch.sin((1 - along) * angle) * a + torch.sin(along * angle) * b) / torch.sin(angle)
    return torch.where(cosine.abs() < PARALLEL, arc, lerp(a, b, along)).to(a.dtype)


@dataclass(frozen=True)
class Rendering:
    """What came of some positions."""

    pictures: Pictures
    flags: tuple[Flag | None, ...]
    """For each picture why it must not be shown, or None if it may."""


class Renderer:
    """One loaded model, which renders batches of one size."""

    def __init__(
        self,
        model: str,
        *,
        batch_size: int,
        device: str | None = None,
        dtype: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: a folder, or a name on the Hub.
            batch_size: frames that are rendered at once, where `render` is given none; a shorter batch is padded,
                since the size of a batch changes the pixels a little.
            device: torch device; None means CUDA where there is one.
            dtype: name of the number format of the denoiser and the decoder; "auto" means half precision where it
                is fast.
            threads: CPU threads; None leaves it to torch.

        Raises:
            ModelError: if it cannot be loaded, or cannot render walks.
        """
        if threads:
            torch.set_num_threads(threads)
        self.batch_size = batch_size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        half = _fastest_dtype(self.device) if dtype == "auto" else getattr(torch, dtype)
        dtypes = {"unet": half, "vae": half, "default": torch.float32}
        try:
            index = DiffusionPipeline.load_config(model)
            if "unet" not in index:  # before gigabytes are loaded in vain
                kind = index.get("_class_name", "What lies there")
                raise ModelError(f"{kind} of {model!r} is not of the Stable Diffusion family.")
            self.pipeline = DiffusionPipeline.from_pretrained(model, dtype=dtypes, low_cpu_mem_usage=False).to(
                self.device
            )
        except (ModelError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # a broken file fails in one library or another, each with an error of its own
            raise ModelError(f"The model {model!r} cannot be loaded: {error}") from error
        if "image" in inspect.signature(self.pipeline.__call__).parameters:
            kind = type(self.pipeline).__name__
            raise ModelError(
                f"{kind} of {model!r} begins with a picture; a walk needs one that makes them from text."
            )
        scheduler = type(self.pipeline.scheduler).__name__
        sde = "sde" in self.pipeline.scheduler.config.get("algorithm_type", "")
        if sde or scheduler not in DETERMINISTIC_SCHEDULERS:
            raise ModelError(
                f"The scheduler {scheduler} of {model!r} draws noise at each step or is unknown; "
                f"a walk needs one of {', '.join(sorted(DETERMINISTIC_SCHEDULERS))}."
            )
        self.pipeline.set_progress_bar_config(disable=True)
        if self.device.type == "cpu":
            keep_memory()
            _attend_plainly(self.pipeline.unet)
        _compute_apart(self.pipeline.unet)
        _compute_apart(self.pipeline.vae.decoder)
        if getattr(self.pipeline.vae, "post_quant_conv", None) is not None:
            _compute_apart(self.pipeline.vae.post_quant_conv)
        self.encode = lru_cache(maxsize=64)(self._encode)
        self._own_scheduler = self.pipeline.scheduler

    @cached_property
    def revision(self) -> str:
        """What tells this model from any other: a hash of all its weights, settings and vocabulary.

        It reads every byte of the weights: a tenth of a second for the embedded model, seconds for large ones.
        """
        digest = hashlib.sha256()
        for name, part in sorted({**self.pipeline.components, "scheduler": self._own_scheduler}.items()):
            digest.update(f"{name} {type(part).__name__}".encode())
            if hasattr(part, "config"):
                digest.update(_described(part.config))
            if isinstance(part, torch.nn.Module):
                for tensor, weights in part.state_dict().items():
                    plain = weights.contiguous().flatten().view(torch.uint8).cpu().numpy()
                    digest.update(f"{tensor} {weights.dtype} {tuple(weights.shape)}".encode())
                    digest.update(plain)
            elif not hasattr(part, "config") and hasattr(part, "save_pretrained"):
                with TemporaryDirectory() as folder:
                    part.save_pretrained(folder)
                    for file in sorted(Path(folder).rglob("*")):
                        if file.is_file():
                            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    def warm_up(self, size: int) -> None:
        """Render one step of a batch of `size` × `size` pixels, so that the first walk need not wait for it."""
        spec = WalkSpec(
            prompts=("", ""),
            frames=2,
            seed=0,
            negative_prompt="",
            steps=1,
            guidance=2,
            width=size,
            height=size,
            fps=1,
        )
        self.render(spec, [0.0])

    def compile(self, size: int, folder: Path) -> None:
        """Compile the denoiser for guided batches of `size` × `size` pixels, if it can be done (`compiled.py`).

        It takes minutes, once: `folder` keeps what was compiled.
        """
        calls: list[dict[str, Any]] = []

        def watch(part: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
            calls.append({"sample": inputs[0], "timestep": inputs[1], **named})

        watching = self.pipeline.unet.register_forward_pre_hook(watch, with_kwargs=True)
        self.warm_up(size)
        watching.remove()
        compile_for(self.pipeline.unet, calls[0], folder)

    def warnings(self, spec: WalkSpec) -> list[str]:
        """Return what visitors should know about how the model reads their prompts."""
        tokenizer = self.pipeline.tokenizer
        limit = tokenizer.model_max_length
        found = []
        for prompt in dict.fromkeys(filter(None, [*spec.prompts, spec.negative_prompt])):
            ids = tokenizer(prompt, verbose=False).input_ids
            if len(ids) > limit:
                read = tokenizer.decode(ids[: limit - 1], skip_special_tokens=True).strip()
                found.append(f"The model reads only the beginning of a long prompt: “{read}”.")
        return found

    def render(
        self,
        spec: WalkSpec,
        positions: Sequence[float],
        check: Callable[[], None] = lambda: None,
        *,
        batch_size: int | None = None,
    ) -> Rendering:
        """Render the frames of a walk at some positions, as one batch if there are no more than its size.

        Args:
            spec: the walk.
            positions: at least one, each in [0, 1].
            check: called before each denoising step; what it raises ends the work.
            batch_size: frames that are rendered at once, as the walk has it; None means that of the renderer.
        """
        size = batch_size or self.batch_size
        batches = [list(positions[start : start + size]) for start in range(0, len(positions), size)]
        rendered = [self._render_batch(spec, batch, size, check) for batch in batches]
        if self.device.type == "cuda":
            _report_memory(self.device)
        pictures = np.concatenate([batch.pictures for batch in rendered])
        return Rendering(pictures, tuple(flag for batch in rendered for flag in batch.flags))

    def _render_batch(
        self, spec: WalkSpec, positions: list[float], size: int, check: Callable[[], None]
    ) -> Rendering:
        padded = positions + positions[-1:] * (size - len(positions))
        batch = Embedding.batch([self._embedding(spec, position) for position in padded])

        def at_step(pipeline: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
            check()
            return tensors

        check()
        self.pipeline.scheduler = self._scheduler(spec.scheduler, spec.steps)
        extra: dict[str, torch.Tensor | None] = {}
        if batch.pooled is not None:
            extra["pooled_prompt_embeds"] = batch.pooled
            extra["negative_pooled_prompt_embeds"] = batch.negative_pooled
        result = self.pipeline(
            prompt_embeds=batch.prompt,
            negative_prompt_embeds=batch.negative,
            **extra,
            latents=torch.cat([self._noise(spec, position) for position in padded]),
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance,
            width=spec.width,
            height=spec.height,
            output_type="np",
            callback_on_step_end=at_step,
        )
        images = result.images[: len(positions)]
        unsafe = getattr(result, "nsfw_content_detected", None) or [False] * len(images)
        flags = tuple(_flag(image, is_unsafe) for image, is_unsafe in zip(images, unsafe, strict=False))
        pictures: Pictures = (np.nan_to_num(images) * 255).round().astype(np.uint8)
        return Rendering(pictures, flags)

    def _embedding(self, spec: WalkSpec, position: float) -> Embedding:
        stops = spec.stops
        number, along = maths.leg(position, len(stops) - 1)
        guided = spec.guidance > 1
        start = self.encode(stops[number], spec.negative_prompt, guided)
        end = self.encode(stops[number + 1], spec.negative_prompt, guided)
        if along in {0, 1}:  # a stop is its prompt and nothing else
            return end if along else start
        return start.between(end, along, spec.interpolation)

    def _scheduler(self, name: Scheduler | None, steps: int) -> Any:
        """Return the sampler of a walk, set up as the model's own is."""
        own, changes = self._own_scheduler, {}
        kind = type(own) if name is None else getattr(diffusers, SCHEDULERS[name])
        if name in LEFT_OUT and LEFT_OUT[name][0] not in own.config:
            changes = dict([LEFT_OUT[name]])
        if kind is diffusers.PNDMScheduler and steps < PRK_STEPS:
            changes = {"skip_prk_steps": True}
        return own if name is None and not changes else kind.from_config(own.config, **changes)

    def _encode(self, prompt: str, negative_prompt: str, guided: bool) -> Embedding:
        """Return what the text encoders make of a prompt; remembered, so once per process and walk."""
        with torch.inference_mode():
            encoded = self.pipeline.encode_prompt(
                prompt=prompt,
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=guided,
                negative_prompt=(negative_prompt or None) if guided else None,
            )
        match encoded:
            case (positive, negative):
                return Embedding(positive, negative)
            case (positive, negative, pooled, negative_pooled):
                return Embedding(positive, negative, pooled, negative_pooled)
        raise ModelError(f"{type(self.pipeline).__name__} encodes prompts in a way that is not known here.")

    def _noise(self, spec: WalkSpec, position: float) -> torch.Tensor:
        """Return the noise that a frame starts from, shape (1, channels, height / 8, width / 8).

        It is drawn on the CPU in float32, because a GPU's random numbers differ from model to model of GPU. Between
        two seeds it moves on the arc, where noise keeps the strength that the model expects.
        """
        noise = self._drawn(spec, spec.seed)
        if spec.seed_to is not None:
            end = self._drawn(spec, spec.seed_to)
            along = maths.path_progress(position, closed=spec.timing.closed)
            noise = slerp(noise.flatten(), end.flatten(), along).reshape(noise.shape)
        return noise.to(self.device)

    def _drawn(self, spec: WalkSpec, seed: int) -> torch.Tensor:
        scale = self.pipeline.vae_scale_factor
        return torch.randn(
            (1, self.pipeline.unet.config.in_channels, spec.height // scale, spec.width // scale),
            generator=torch.Generator("cpu").manual_seed(seed),
            dtype=torch.float32,
        )


def _described(config: Any) -> bytes:
    """Return the settings of a part of a model, without where it came from and who wrote it."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    values = {name: value for name, value in values.items() if name[0] != "_" and name != "transformers_version"}
    return json.dumps(values, sort_keys=True, default=str).encode()


def _report_memory(device: torch.device) -> None:
    """Tell how much memory of a GPU is used by this process, and how much it has."""
    _, total = torch.cuda.mem_get_info(device)
    for state, size in (
        ("allocated", torch.cuda.memory_allocated(device)),
        ("peak", torch.cuda.max_memory_allocated(device)),
        ("reserved", torch.cuda.memory_reserved(device)),
        ("total", total),
    ):
        metrics.record(metrics.GPU_MEMORY_BYTES, size, state=state)


def _fastest_dtype(device: torch.device) -> torch.dtype:
    """Return the number format that a device computes fastest with, and well enough."""
    if device.type != "cpu":
        return torch.float16
    able = torch.cpu.get_capabilities()
    has_bfloat16 = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if has_bfloat16 else torch.float32


class ShortAttention:
    """Attention as diffusers computes it: in plain products for few tokens, in the fused form for many."""

    plain, fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        """Return the hidden states, shape (rows, tokens, width), after attention."""
        processor = self.plain if hidden_states.shape[1] <= FEW_TOKENS else self.fused
        attended: torch.Tensor = processor(attn, hidden_states, *arguments, **named)
        return attended


def _attend_plainly(unet: Any) -> None:
    """Have the layers of a denoiser that would fuse all their attention fuse it for many tokens only."""
    unet.set_attn_processor(
        {
            name: ShortAttention() if type(processor) is AttnProcessor2_0 else processor
            for name, processor in unet.attn_processors.items()
        }
    )


def _compute_apart(module: Any) -> None:
    """Have a part of the model compute in its own number format, among float32 ones, with channels last.

    Its parameters are read again at each call: some pipelines change the format of their decoder for a while.
    """

    def enter(part: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        dtype = next(part.parameters()).dtype
        if "encoder_hidden_states" in named:
            named = {**named, "encoder_hidden_states": named["encoder_hidden_states"].to(dtype)}
        return (inputs[0].to(dtype), *inputs[1:]), named

    def leave(part: torch.nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        return (output[0].float(), *output[1:]) if isinstance(output, tuple) else output.float()

    module.to(memory_format=torch.channels_last)
    module.register_forward_pre_hook(enter, with_kwargs=True)
    module.register_forward_hook(leave)


def _flag(image: NDArray[np.float32], unsafe: bool) -> Flag | None:
    """Return why an image in [0, 1] must not be shown, or None if it may."""
    if unsafe:
        return Flag.UNSAFE
    return None if np.isfinite(image).all() and image.max() > 0 else Flag.BLACK
