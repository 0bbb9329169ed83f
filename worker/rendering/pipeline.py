"""From prompts and positions to pictures.

Every frame of a walk starts from the same noise (unless the walk has a second seed) and differs from its neighbours
only in the text embedding, which is interpolated between those of two prompts. The embeddings go into the model's
own stock pipeline; what differs between the families of models is in `families.py`.

The denoiser and the decoder, which take most of the time, may compute in half precision; the rest stays in float32:
the embeddings, the noise, the sampler's sums, the pixels (`docs/decisions/0010-precision.md`).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from momalisa.domain.families import FAMILIES
from momalisa.domain.path import leg
from momalisa.domain.pins import MadeWith
from momalisa.domain.prompts import MOST_QUOTED
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import Flag
from momalisa.settings import Offload, settings
from worker.rendering import decoding, embeddings, families, memory
from worker.rendering.additions import NONE, Additions
from worker.rendering.compiled import compile_blocks, compile_for
from worker.rendering.embeddings import Embedding
from worker.rendering.layers import best_device
from worker.rendering.loading import load_pipeline
from worker.rendering.noise import TravellingNoise
from worker.rendering.revision import model_revision
from worker.rendering.samplers import make_sampler

Pictures = NDArray[np.uint8]
"""Shape (frames, height, width, 3), RGB."""

BatchLatents = NDArray[np.float16]
"""Shape (frames, channels, …): what the decoder makes pictures of."""


@dataclass(frozen=True)
class Rendering:
    """The pictures at some positions."""

    pictures: Pictures
    flags: tuple[Flag | None, ...]
    """Why each picture must not be shown; None if it may be."""
    batch_size: int
    """The number of frames per batch, which changes pixels slightly."""
    latents: BatchLatents | None = None
    """Of denoised frames, from which others can be interpolated (`Renderer.decodes`)."""


class Renderer:
    """A loaded model, which renders batches."""

    def __init__(
        self,
        model: str,
        *,
        batch_size: int,
        device: str | None = None,
        dtype: str = "auto",
        offload: Offload = "none",
        threads: int | None = None,
        additions: Additions = NONE,
    ) -> None:
        """Load a model.

        Args:
            model: a folder, a file, or a name on the Hub.
            batch_size: default number of frames in a batch. Shorter batches are padded, since the size of a batch
                changes pixels slightly.
            device: torch device; None means CUDA, else MPS, else the CPU.
            dtype: name of the number format of the denoiser and the decoder; "auto" means half precision where it
                is fast.
            offload: what of the model waits in the memory of the machine until it computes.
            threads: CPU threads; None leaves it to torch.
            additions: what is added to the model, such as LoRAs.

        Raises:
            ModelError: if it cannot be loaded, or cannot render walks.
        """
        if threads:
            torch.set_num_threads(threads)
        self.batch_size = batch_size
        self.device = torch.device(device or best_device())
        self.pipeline, self.family = load_pipeline(model, self.device, dtype, additions)
        self.known = FAMILIES[type(self.pipeline).__name__]
        """What clients know of its family."""
        self.denoiser = getattr(self.pipeline, self.family.denoiser)
        self._check: Callable[[], None] = lambda: None
        self._denoising, self._decoding = memory.BatchLimit(self.device), memory.BatchLimit(self.device)
        self._decoded = decoding.watch(self.pipeline.vae)
        """The latents of the last batch."""
        self.decodes = False
        """Whether `decode` makes the same pictures as the pipeline; known after `warm_up`."""
        self.denoiser.register_forward_pre_hook(lambda *_: self._check())
        self.encode = lru_cache(maxsize=64)(self._encode)
        self.own_scheduler = self.pipeline.scheduler
        # Computed now: once a tokenizer was used, it is saved with the settings of its last call.
        self.revision = model_revision({**self.pipeline.components, "scheduler": self.own_scheduler})
        """The revision of the model (`model_revision`)."""
        self.compiled = False
        memory.place(self.pipeline, self.device, offload)

    @property
    def made_with(self) -> MadeWith:
        """What decides the pixels of frames besides their settings and batches."""
        kind = self.device.type
        name = (
            torch.cuda.get_device_name(self.device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
        )
        compiled = ", compiled" if self.compiled else ""
        return MadeWith(
            revision=self.revision,
            dtype=str(self.denoiser.dtype).removeprefix("torch."),
            device=f"{kind} {name}{compiled}, torch {torch.__version__}",
        )

    @property
    def dense(self) -> bool:
        """Whether frames may be interpolated: `decode` is right, and the model is one of DENSE_REVISIONS."""
        return self.decodes and self.revision in settings().dense_revisions

    def warm_up(self, size: int) -> None:
        """Render a batch of `size` × `size` pixels, so that the first walk does not wait for it.

        Its latents are then decoded again, to find out whether `decode` does what the pipeline does.
        """
        spec = WalkSpec(
            prompts=("", ""),
            frames=2,
            seed=0,
            negative_prompt="",
            steps=self.known.fewest_steps,
            guidance=2,
            width=size,
            height=size,
            fps=1,
        )
        rendering = self.render(spec, [0.0])
        latents = self._decoded[0].float().cpu().numpy()
        again = self.decode(spec, latents[:1], batch_size=rendering.batch_size)
        same = np.array_equal(again.pictures, rendering.pictures)
        self.decodes = same and rendering.flags == (None,)  # pictures that are black are the same by chance

    def compile(self, size: int, folder: Path) -> bool:
        """Compile the denoiser for guided batches of `size` × `size` pixels, if possible (`compiled.py`).

        The first time takes minutes; `folder` caches the compiled code. Returns whether it is compiled now.
        """
        if self.family.denoiser == "transformer":
            self.compiled = self.family.compiles and compile_blocks(
                self.denoiser, folder, lambda: self.warm_up(size)
            )
            return self.compiled
        calls: list[dict[str, Any]] = []

        def watch(part: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
            calls.append({"sample": inputs[0], "timestep": inputs[1], **named})

        watching = self.denoiser.register_forward_pre_hook(watch, with_kwargs=True)
        self.warm_up(size)
        watching.remove()
        self.compiled = compile_for(self.denoiser, calls[0], folder)
        return self.compiled

    def warnings(self, spec: WalkSpec) -> list[str]:
        """Return warnings for users about how the model reads their prompts."""
        given = dict.fromkeys([*spec.prompts, *spec.negatives])
        read = (families.cut_off(self.pipeline, self.family, prompt) for prompt in given)
        return [f"The model reads a long prompt only up to “{_last_words(each)}”." for each in read if each]

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
            batch_size: number of frames in a batch, as stored on the walk; None means the renderer's default. If
                memory runs out, it is halved from then on.
        """
        batches, size = self._denoising.run(
            lambda batch, size: self._denoise(spec, positions[batch], size, check),
            len(positions),
            batch_size or self.batch_size,
            spec.width * spec.height,
        )
        return self._joined(batches, size)

    def decode(
        self,
        spec: WalkSpec,
        latents: NDArray[np.float32],
        check: Callable[[], None] = lambda: None,
        *,
        batch_size: int | None = None,
    ) -> Rendering:
        """Decode latents to frames of a walk, in as few batches as possible.

        Args:
            spec: the walk.
            latents: of at least one frame, shape (frames, channels, …).
            check: called before each batch; its exceptions end the work.
            batch_size: as for `render`.
        """
        batches, size = self._decoding.run(
            lambda batch, size: self._decode(spec, latents[batch], size, check),
            len(latents),
            batch_size or self.batch_size,
            spec.width * spec.height,
        )
        return self._joined(batches, size)

    def _joined(self, batches: Sequence[Rendering], size: int) -> Rendering:
        memory.report(self.device)
        latents = [batch.latents for batch in batches if batch.latents is not None]
        return Rendering(
            np.concatenate([batch.pictures for batch in batches]),
            tuple(flag for batch in batches for flag in batch.flags),
            size,
            np.concatenate(latents) if latents else None,
        )

    def batch_that_fits(self, spec: WalkSpec, wanted: int, *, decoded: bool = False) -> int:
        """Return how many frames of a walk are rendered at once where `wanted` would be: fewer if memory ran out.

        That holds for as long as this process lives, and for frames of other sizes in proportion.

        Args:
            spec: the walk.
            wanted: frames in a batch.
            decoded: whether they are only decoded (`decode`).
        """
        limit = self._decoding if decoded else self._denoising
        return limit.fitting(wanted, spec.width * spec.height)

    def _denoise(
        self, spec: WalkSpec, positions: Sequence[float], size: int, check: Callable[[], None]
    ) -> Rendering:
        padded = [*positions, *[positions[-1]] * (size - len(positions))]
        batch = embeddings.batch([self._embedding(spec, position) for position in padded])
        noise = TravellingNoise([spec.noise(position) for position in padded])
        check()
        self._check = check
        memory.fit_decoder(self.pipeline.vae, spec.width * spec.height)
        self.pipeline.scheduler = make_sampler(self.own_scheduler, spec.scheduler, spec.steps)
        with noise if noise.travels else nullcontext():
            result = self.pipeline(
                **{name: tensor.to(self.device) for name, tensor in batch.items()},
                **self.family.arguments,
                **{self.family.guidance: spec.guidance},
                generator=noise.generators,
                num_inference_steps=spec.steps,
                width=spec.width,
                height=spec.height,
                output_type="np",
            )
        unsafe = getattr(result, "nsfw_content_detected", None)
        latents = self._decoded[0][: len(positions)].to("cpu", torch.float16).numpy() if self.decodes else None
        return _rendering(result.images[: len(positions)], unsafe, size, latents)

    def _decode(
        self, spec: WalkSpec, latents: NDArray[np.float32], size: int, check: Callable[[], None]
    ) -> Rendering:
        padded = np.concatenate([latents, *[latents[-1:]] * (size - len(latents))])
        check()
        memory.fit_decoder(self.pipeline.vae, spec.width * spec.height)
        images, unsafe = decoding.decode(self.pipeline, torch.from_numpy(padded).to(self.device))
        return _rendering(images[: len(latents)], unsafe, size)

    def _embedding(self, spec: WalkSpec, position: float) -> Embedding:
        number, t = leg(position, spec.legs)
        guided = families.guides(self.pipeline, spec.guidance)
        start, end = (
            self.encode(spec.stops[stop], spec.negatives[stop] if guided else None) for stop in (number, number + 1)
        )
        if t in {0, 1}:  # exactly the embedding of its prompt
            return end if t else start
        masked = self.family.padding == "masked"
        return embeddings.between(start, end, t, spec.interpolation, masked=masked)

    def _encode(self, prompt: str, negative_prompt: str | None) -> Embedding:
        """Return the embedding of a prompt; `encode` caches it, so each walk computes it once per process."""
        return families.encode(self.pipeline, self.family, prompt, negative_prompt, self.device)


def _last_words(text: str) -> str:
    """Return the end of a text, whole words where it has some."""
    end = text.rstrip()[-MOST_QUOTED:]
    return end if len(end) < MOST_QUOTED else f"…{end.partition(' ')[2] or end}"


def _rendering(
    images: decoding.Images, unsafe: Sequence[bool] | None, size: int, latents: BatchLatents | None = None
) -> Rendering:
    """Return images in [0, 1] as pictures, with why each must not be shown."""
    flags = tuple(
        _flag(image, is_unsafe) for image, is_unsafe in zip(images, unsafe or [False] * len(images), strict=False)
    )
    pictures: Pictures = (np.nan_to_num(images) * 255).round().astype(np.uint8)
    return Rendering(pictures, flags, size, latents)


def _flag(image: NDArray[np.float32], unsafe: bool) -> Flag | None:
    """Return why an image in [0, 1] must not be shown, or None if it may be."""
    if unsafe:
        return Flag.UNSAFE
    return None if np.isfinite(image).all() and image.max() > 0 else Flag.BLACK
