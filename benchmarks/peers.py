"""Other ways to render walks, each as its users run it: float32, pictures saved as PNG files.

The algorithms of other projects are reimplemented in a few lines, with their batches, embeddings and loops; the
model, prompts, steps and noise are the same for all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from momalisa.domain.spec import WalkSpec

Pictures = NDArray[np.uint8]
"""Shape (frames, height, width, 3), RGB."""


@dataclass(frozen=True)
class Job:
    """A walk from one prompt to another."""

    prompts: tuple[str, str]
    frames: int
    steps: int
    guidance: float
    size: int
    """Width and height, in pixels."""
    seed: int = 7

    @property
    def positions(self) -> list[float]:
        """The positions of the frames: equal steps from 0 to 1."""
        return [index / (self.frames - 1) for index in range(self.frames)]

    @property
    def spec(self) -> WalkSpec:
        """The walk in our own terms."""
        return WalkSpec(
            prompts=self.prompts,
            frames=self.frames,
            seed=self.seed,
            negative_prompt="",
            steps=self.steps,
            guidance=self.guidance,
            width=self.size,
            height=self.size,
            fps=12,
        )


def load(model: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return the stock pipeline of a model, as the documentation of diffusers loads it."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=dtype, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock(pipeline: Any, job: Job, folder: Path, batch: int) -> Pictures:
    """Render with the stock pipeline, `batch` frames a call: 1 gives the loop that people write first."""
    with torch.no_grad():
        start, end = (pipeline.encode_prompt(prompt, pipeline.device, 1, True)[0] for prompt in job.prompts)
    noise = _noise(pipeline, job)
    saved = []
    for first in range(0, job.frames, batch):
        points = job.positions[first : first + batch]
        result = pipeline(
            prompt_embeds=torch.cat([torch.lerp(start, end, point) for point in points]),
            negative_prompt=[""] * len(points),
            latents=noise.repeat(len(points), 1, 1, 1),
            num_inference_steps=job.steps,
            guidance_scale=job.guidance,
            width=job.size,
            height=job.size,
        )
        saved += _saved(result.images, folder, first)
    return np.stack(saved)


def community(pipeline: Any, job: Job, folder: Path, batch: int = 4) -> Pictures:
    """Render as diffusers' community pipeline does; its documented example has batches of 4.

    Source: huggingface/diffusers, examples/community/interpolate_stable_diffusion.py (Apache 2.0).
    """
    return _walk(pipeline, job, folder, batch, encode_empty_once=False)


def videos(pipeline: Any, job: Job, folder: Path, batch: int = 4) -> Pictures:
    """Render as stable-diffusion-videos does; its default are batches of 1, here they have 4.

    Source: nateraw/stable-diffusion-videos, stable_diffusion_videos/stable_diffusion_pipeline.py (Apache 2.0).
    """
    return _walk(pipeline, job, folder, batch, encode_empty_once=True)


def _walk(pipeline: Any, job: Job, folder: Path, batch: int, *, encode_empty_once: bool) -> Pictures:
    """Render as both projects do, which share their origin; they differ in how they encode the empty prompt."""
    saved: list[Pictures] = []
    for embeddings, noise in _inputs(pipeline, job, batch):
        rows = len(embeddings)
        empty = _embed(pipeline, [""] if encode_empty_once else [""] * rows).expand(rows, -1, -1)
        images = _denoise(pipeline, job, torch.cat([empty, embeddings]), noise)
        saved += _saved(pipeline.numpy_to_pil(images), folder, len(saved))
    return np.stack(saved)


def _inputs(pipeline: Any, job: Job, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the embeddings and the noise of each batch, built frame by frame."""
    start, end = (_embed(pipeline, [prompt]) for prompt in job.prompts)
    noises = (_noise(pipeline, job), _noise(pipeline, job))
    points = job.positions
    for first in range(0, len(points), batch):
        group = points[first : first + batch]
        embeddings = torch.cat([torch.lerp(start, end, point) for point in group])
        yield embeddings, torch.cat([_slerp(*noises, point) for point in group])


@torch.no_grad()
def _denoise(pipeline: Any, job: Job, embeddings: torch.Tensor, latents: torch.Tensor) -> NDArray[np.float32]:
    pipeline.scheduler.set_timesteps(job.steps)
    latents = latents * pipeline.scheduler.init_noise_sigma
    for timestep in pipeline.scheduler.timesteps:
        doubled = pipeline.scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        guess = pipeline.unet(doubled, timestep, encoder_hidden_states=embeddings).sample
        without, with_prompt = guess.chunk(2)
        guided = without + job.guidance * (with_prompt - without)
        latents = pipeline.scheduler.step(guided, timestep, latents, eta=0.0).prev_sample
    images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    found: NDArray[np.float32] = (images / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
    return found


@torch.no_grad()
def _embed(pipeline: Any, prompts: list[str]) -> torch.Tensor:
    tokenizer = pipeline.tokenizer
    ids = tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    embedding: torch.Tensor = pipeline.text_encoder(ids.to(pipeline.device))[0]
    return embedding


def _noise(pipeline: Any, job: Job) -> torch.Tensor:
    side = job.size // pipeline.vae_scale_factor
    shape = (1, pipeline.unet.config.in_channels, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(job.seed)).to(pipeline.unet.dtype)


def _slerp(start: torch.Tensor, end: torch.Tensor, t: float) -> torch.Tensor:
    """Interpolate spherically between two tensors at t in [0, 1], in NumPy as both projects do."""
    a, b = start.numpy(), end.numpy()
    cosine = np.sum(a * b / (np.linalg.norm(a) * np.linalg.norm(b)))
    if abs(cosine) > 0.9995:  # noqa: PLR2004 - their threshold: almost parallel
        return torch.from_numpy((1 - t) * a + t * b)
    angle = np.arccos(cosine)
    return torch.from_numpy((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))


def _saved(images: list[Image.Image], folder: Path, start: int) -> list[Pictures]:
    for index, image in enumerate(images, start):
        image.save(folder / f"{index:06}.png")
    return [np.asarray(image) for image in images]
