"""From prompts and positions to pictures.

Every frame of a walk starts from the same noise (unless the walk has a second seed) and differs from its neighbours
only in the text embedding, which is interpolated between those of two prompts. The embeddings go into the model's
own stock pipeline, so that any pipeline of the Stable Diffusion family (1.x, 2.x, XL) renders walks.

The denoiser and the decoder, which take most of the time, may compute in half precision; the rest stays in float32:
the embeddings, the noise, the sampler's sums, the pixels (`docs/decisions/0010-precision.md`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from momalisa.domain.path import leg, seed_progress
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import Flag
from momalisa.errors import ModelError
from momalisa.telemetry import metrics
from worker.rendering.compiled import compile_for
from worker.rendering.embeddings import Embedding, slerp
from worker.rendering.loading import load_pipeline
from worker.rendering.revision import model_revision
from worker.rendering.samplers import make_sampler

Pictures = NDArray[np.uint8]
"""Shape (frames, height, width, 3), RGB."""


@dataclass(frozen=True)
class Rendering:
    """The pictures at some positions."""

    pictures: Pictures
    flags: tuple[Flag | None, ...]
    """Why each picture must not be shown; None if it may be."""


class Renderer:
    """A loaded model, which renders batches."""

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
            batch_size: default number of frames in a batch. Shorter batches are padded, since the size of a batch
                changes pixels slightly.
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
        self.pipeline = load_pipeline(model, self.device, dtype)
        self.encode = lru_cache(maxsize=64)(self._encode)
        self.own_scheduler = self.pipeline.scheduler
        # Computed now: once a tokenizer was used, it is saved with the settings of its last call.
        self.revision = model_revision({**self.pipeline.components, "scheduler": self.own_scheduler})
        """The revision of the model (`model_revision`)."""

    def warm_up(self, size: int) -> None:
        """Render one step of a batch of `size` × `size` pixels, so that the first walk does not wait for it."""
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
        """Compile the denoiser for guided batches of `size` × `size` pixels, if possible (`compiled.py`).

        The first time takes minutes; `folder` caches the compiled code.
        """
        calls: list[dict[str, Any]] = []

        def watch(part: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
            calls.append({"sample": inputs[0], "timestep": inputs[1], **named})

        watching = self.pipeline.unet.register_forward_pre_hook(watch, with_kwargs=True)
        self.warm_up(size)
        watching.remove()
        compile_for(self.pipeline.unet, calls[0], folder)

    def warnings(self, spec: WalkSpec) -> list[str]:
        """Return warnings for users about how the model reads their prompts."""
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
        """Render the frames of a walk at some positions, in as few batches as possible.

        Args:
            spec: the walk.
            positions: at least one, each in [0, 1].
            check: called before each denoising step; its exceptions end the work.
            batch_size: number of frames in a batch, as stored on the walk; None means the renderer's default.
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
        self.pipeline.scheduler = make_sampler(self.own_scheduler, spec.scheduler, spec.steps)
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
        number, t = leg(position, len(stops) - 1)
        guided = spec.guidance > 1
        start = self.encode(stops[number], spec.negative_prompt, guided)
        end = self.encode(stops[number + 1], spec.negative_prompt, guided)
        if t in {0, 1}:  # exactly the embedding of its prompt
            return end if t else start
        return start.between(end, t, spec.interpolation)

    def _encode(self, prompt: str, negative_prompt: str, guided: bool) -> Embedding:
        """Return the text embedding of a prompt; `encode` caches it, so each walk computes it once per process."""
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
        raise ModelError(f"{type(self.pipeline).__name__} returns prompt embeddings in an unsupported format.")

    def _noise(self, spec: WalkSpec, position: float) -> torch.Tensor:
        """Return the noise that a frame starts from, shape (1, channels, height / 8, width / 8).

        It is drawn on the CPU in float32, because random numbers differ between GPU models. Between two seeds it is
        interpolated spherically, so that it keeps the variance that the model expects.
        """
        noise = self._drawn(spec, spec.seed)
        if spec.seed_to is not None:
            end = self._drawn(spec, spec.seed_to)
            t = seed_progress(position, closed=spec.timing.closed)
            noise = slerp(noise.flatten(), end.flatten(), t).reshape(noise.shape)
        return noise.to(self.device)

    def _drawn(self, spec: WalkSpec, seed: int) -> torch.Tensor:
        scale = self.pipeline.vae_scale_factor
        return torch.randn(
            (1, self.pipeline.unet.config.in_channels, spec.height // scale, spec.width // scale),
            generator=torch.Generator("cpu").manual_seed(seed),
            dtype=torch.float32,
        )


def _report_memory(device: torch.device) -> None:
    """Record how much GPU memory this process uses, and how much the GPU has."""
    _, total = torch.cuda.mem_get_info(device)
    for state, size in (
        ("allocated", torch.cuda.memory_allocated(device)),
        ("peak", torch.cuda.max_memory_allocated(device)),
        ("reserved", torch.cuda.memory_reserved(device)),
        ("total", total),
    ):
        metrics.record(metrics.GPU_MEMORY_BYTES, size, state=state)


def _flag(image: NDArray[np.float32], unsafe: bool) -> Flag | None:
    """Return why an image in [0, 1] must not be shown, or None if it may be."""
    if unsafe:
        return Flag.UNSAFE
    return None if np.isfinite(image).all() and image.max() > 0 else Flag.BLACK
