"""Other ways to fill in the frames of a walk between few rendered ones, each of which may take a given time."""

import subprocess
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

import numpy as np
import torch
from imageio_ffmpeg import get_ffmpeg_exe

from benchmarks.peers import Pictures
from benchmarks.smoothness import dissimilarity
from momalisa.domain.path import linspace_indices
from momalisa.domain.spec import WalkSpec
from worker.media.encoders import Picture
from worker.rendering.embeddings import slerp
from worker.rendering.noise import seeded
from worker.rendering.pipeline import Renderer


def blended(exact: Pictures, keys: int) -> Pictures:
    """Return frames of which `keys`, evenly chosen, are exact, and the others are blended from their pixels."""
    chosen = linspace_indices(len(exact), keys)
    return np.stack([_mixed(exact, chosen, index) for index in range(len(exact))])


def motion_compensated(exact: Pictures, keys: int) -> Pictures:
    """Return frames of which `keys`, evenly chosen, are exact, and ffmpeg's `minterpolate` makes the others.

    Its detection of scene changes is off, since it would repeat frames where the picture moves fast.
    """
    frames, height, width, _ = exact.shape
    chosen = linspace_indices(frames, keys)
    shown = exact[[chosen[0], *chosen, chosen[-1], chosen[-1]]]  # the filter needs frames before and after
    command = [get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", str(keys - 1), "-i", "-", "-vf", f"minterpolate=fps={frames - 1}:scd=none"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    made = subprocess.run(command, input=shown.tobytes(), capture_output=True, check=True).stdout  # noqa: S603
    pictures = np.frombuffer(made, np.uint8).reshape(-1, height, width, 3)
    start = round((frames - 1) / (keys - 1))
    return pictures[start : start + frames]


def affordable(way: Callable[[Pictures, int], Pictures], exact: Pictures, seconds: float, each: float) -> Pictures:
    """Return the frames that a way fills in, with as many keys as fit into a time.

    Args:
        way: `blended` or `motion_compensated`; it is given its keys, which would have taken their time.
        exact: all frames.
        seconds: the time for everything.
        each: seconds for a key.
    """
    started = time.perf_counter()
    way(exact, max(int(seconds / each), 2))
    filling = time.perf_counter() - started
    return way(exact, min(max(int((seconds - filling) / each), 2), len(exact)))


@dataclass
class _Branch:
    """A picture of the tree, with the latents after each of its steps."""

    place: float
    begins: int
    """The step at which it begins."""
    latents: list[torch.Tensor | None]
    picture: Picture


@dataclass
class Tree:
    """Latent blending, as `lunarring/latentblending` does it with models other than SDXL Turbo.

    Two pictures are rendered from the same noise, then branches between the neighbours that differ most: each
    begins in the middle of the denoising, from latents between those of its parents, which also pull it for some
    steps. Pictures are rendered one by one, since each decides where the next one goes. Its measure of difference
    is LPIPS, whose weights are not in its package; here it is 1 − SSIM. Frames between are blended from pixels.

    Source: lunarring/latentblending, latentblending/blending_engine.py and diffusers_holder.py (Apache 2.0),
    reimplemented with its defaults.
    """

    renderer: Renderer
    spec: WalkSpec
    branches: list[_Branch] = field(default_factory=list)

    DEPTH = 0.5
    """At which share of the steps the first branches begin."""
    PULL, PULL_RANGE, PULL_DECAY = 0.3, 0.6, 0.9
    """How much parents pull a branch, until which share of the steps, and what is left of it then."""
    DAMPER = 0.5
    """How much guidance is left in the middle of the walk."""

    @torch.inference_mode()
    def grow(self, seconds: float) -> None:
        """Render as many branches as their estimate says fit into a time."""
        steps = self.spec.steps
        self._prepare()
        noise = torch.randn(self._shape, generator=seeded(self.spec.seed)) * self._scheduler.init_noise_sigma
        started = time.perf_counter()
        first = self._denoised(0.0, noise, 0, [None] * steps, [0.0] * steps)
        step = (time.perf_counter() - started) / steps
        started = time.perf_counter()
        picture = self._decoded(first)
        decoding = time.perf_counter() - started
        last = self._denoised(1.0, noise, 0, [None] * steps, [0.0] * steps)
        self.branches = [_Branch(0.0, 0, first, picture), _Branch(1.0, 0, last, self._decoded(last))]
        differences = [dissimilarity(picture, self.branches[1].picture)]
        for begins, count in self._levels(seconds, step, decoding):
            for _ in range(count):
                left = int(np.argmax(differences))
                made = self._between(left, begins)
                self.branches.insert(left + 1, made)
                differences[left : left + 1] = [
                    dissimilarity(one.picture, other.picture)
                    for one, other in pairwise(self.branches[left : left + 3])
                ]

    def frames(self, positions: Sequence[float]) -> Pictures:
        """Return the frames at some positions, blended from the pictures on both sides."""
        places = [branch.place for branch in self.branches]
        found = []
        for position in positions:
            after = min(max(bisect(places, position), 1), len(places) - 1)
            start, end = self.branches[after - 1], self.branches[after]
            share = (position - start.place) / (end.place - start.place)
            found.append(((1 - share) * start.picture + share * end.picture).astype(np.uint8))
        return np.stack(found)

    def _levels(self, seconds: float, step: float, decoding: float) -> list[tuple[int, int]]:
        """Return at which steps branches begin, and how many there: `get_time_based_branching`."""
        steps = self.spec.steps
        begins = np.arange(int(steps * self.DEPTH), steps, ceil(steps / 10))
        counts = np.ones(len(begins), dtype=int)
        while True:
            taken = (
                ((steps - begins) * counts).sum() * step + decoding * counts.sum() + 2 * (steps * step + decoding)
            )
            grown = next((index for index in range(len(counts) - 1) if counts[index + 1] >= counts[index]), -1)
            counts[grown] += 1
            if taken > seconds:
                return list(zip(begins.tolist(), counts.tolist(), strict=True))

    def _between(self, left: int, begins: int) -> _Branch:
        """Return a branch in the middle between two neighbours: `compute_latents_mix`."""
        place = (self.branches[left].place + self.branches[left + 1].place) / 2
        one = next(each for each in reversed(self.branches[: left + 1]) if each.begins < begins)
        other = next(each for each in self.branches[left + 1 :] if each.begins < begins)
        share = (place - one.place) / (other.place - one.place)
        mixed = [
            None if a is None or b is None else slerp(a.flatten(), b.flatten(), share).reshape(a.shape)
            for a, b in zip(one.latents, other.latents, strict=True)
        ]
        steps = self.spec.steps
        fading = max(round(steps * self.PULL_RANGE) - begins, 0)
        pulls = [self.PULL] * begins + np.linspace(self.PULL, self.PULL * self.PULL_DECAY, fading).tolist()
        start = mixed[begins - 1]
        assert start is not None
        latents = self._denoised(place, start, begins, mixed, pulls + [0.0] * (steps - len(pulls)))
        return _Branch(place, begins, latents, self._decoded(latents))

    def _denoised(
        self,
        place: float,
        start: torch.Tensor,
        begins: int,
        mixed: list[torch.Tensor | None],
        pulls: list[float],
    ) -> list[torch.Tensor | None]:
        """Return the latents after each step, None before the first: `run_diffusion_sd_xl`."""
        guidance = self.spec.guidance
        lost = guidance * (1 - self.DAMPER) - 1  # as there: nothing at a guidance of 2
        guidance -= lost * (1 - abs(place - 0.5) / 0.5)
        prompt = torch.lerp(*self._prompts, place)
        latents, found = start, list[torch.Tensor | None]()
        self._scheduler.set_timesteps(self.spec.steps)
        for index, timestep in enumerate(self._scheduler.timesteps):
            if index < begins:
                found.append(None)
                continue
            if index and pulls[index] and (target := mixed[index - 1]) is not None:
                latents = slerp(latents.flatten(), target.flatten(), pulls[index]).reshape(latents.shape)
            doubled = self._scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
            both = self.renderer.denoiser(
                doubled, timestep, encoder_hidden_states=torch.cat([self._nothing, prompt]), return_dict=False
            )[0]
            without, guided = both.float().chunk(2)
            latents = self._scheduler.step(without + guidance * (guided - without), timestep, latents).prev_sample
            found.append(latents)
        return found

    def _decoded(self, latents: list[torch.Tensor | None]) -> Picture:
        last = latents[-1]
        assert last is not None
        scaled = (last / self.renderer.pipeline.vae.config.scaling_factor).numpy()
        picture: Picture = self.renderer.decode(self.spec, scaled, batch_size=1).pictures[0]
        return picture

    def _prepare(self) -> None:
        pipeline = self.renderer.pipeline
        self._scheduler = type(self.renderer.own_scheduler).from_config(self.renderer.own_scheduler.config)
        encoded = [pipeline.encode_prompt(prompt, pipeline.device, 1, True) for prompt in self.spec.prompts]
        self._prompts, self._nothing = (encoded[0][0], encoded[1][0]), encoded[0][1]
        side = pipeline.vae_scale_factor
        channels = pipeline.unet.config.in_channels
        self._shape = (1, channels, self.spec.height // side, self.spec.width // side)


def _mixed(exact: Pictures, chosen: Sequence[int], index: int) -> Picture:
    after = min(max(bisect(chosen, index), 1), len(chosen) - 1)
    start, end = chosen[after - 1], chosen[after]
    share = (index - start) / (end - start)
    mixed: Picture = ((1 - share) * exact[start] + share * exact[end]).round().astype(np.uint8)
    return mixed
