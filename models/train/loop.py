"""The training loop, which can be interrupted and resumed at any time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from momalisa.telemetry.logging import logger

log = logger(__name__)

PAUSE = 30.0
"""In seconds; if a step takes longer, the machine was asleep, and the time does not count."""

SAVE_EVERY = 120.0
"""In seconds of work."""

AVERAGE_EVERY = 5
"""Steps."""

GPU_LOAD = 16
"""Batch size on a GPU, relative to that on a CPU."""

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Plan:
    """A training schedule: the learning rate rises, stays constant, and falls to 0."""

    steps: int
    """Number of steps, unless `hours` is given."""
    rate: float
    """Maximum learning rate."""
    hours: float | None = None
    """If given, train for this many hours of work instead."""
    rising: int = 200
    """Steps."""
    falling: float = 0.4
    """Share of the whole."""
    memory: float = 0.998
    """Decay of the running average of the weights, after many steps."""

    def progress(self, steps: int, seconds: float) -> float:
        """Return the progress; 1 or more at the end."""
        return seconds / (3600 * self.hours) if self.hours else steps / self.steps

    def rate_at(self, steps: int, progress: float) -> float:
        """Return the learning rate of a step."""
        return self.rate * min((steps + 1) / self.rising, (1 - progress) / self.falling, 1)


def device() -> torch.device:
    """Return the device to train on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batch_size(on_a_cpu: int) -> int:
    """Return the batch size; a GPU needs larger batches than two CPU cores."""
    return on_a_cpu if device().type == "cpu" else GPU_LOAD * on_a_cpu


@contextmanager
def half_precision() -> Iterator[None]:
    """Compute in bfloat16; on a CPU without fused attention, which is slower for few tokens."""
    on_a_cpu = device().type == "cpu"
    with torch.autocast(device().type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH) if on_a_cpu else nullcontext():
        yield


def random_state() -> torch.Tensor:
    """Return the state of the device's random number generator."""
    return torch.get_rng_state() if device().type == "cpu" else torch.cuda.get_rng_state()


def set_random_state(state: torch.Tensor) -> None:
    """Restore the state of the device's random number generator."""
    if device().type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state)


def train(model: torch.nn.Module, loss: Callable[[float], torch.Tensor], plan: Plan, checkpoint: Path) -> None:
    """Train a model in place; at the end its weights are their running average.

    Random numbers come from the device's own generator, so that a resumed training continues the same sequence.

    Args:
        model: its parameters that require a gradient are trained.
        loss: draws a batch and returns its loss, given the progress from 0 to 1.
        plan: the schedule.
        checkpoint: the file of the training state; if it exists, training resumes from it.
    """
    weights: list[torch.Tensor] = [weight for weight in model.parameters() if weight.requires_grad]
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    steps, seconds, running = 0, 0.0, torch.zeros((), device=device())
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device())
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average = saved["average"]
        steps, seconds, running = saved["steps"], saved["seconds"], saved["loss"]
        set_random_state(saved["random"].cpu())

    def save() -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        unfinished = checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "steps": steps,
                "seconds": seconds,
                "loss": running,
                "random": random_state(),
            },
            unfinished,
        )
        unfinished.replace(checkpoint)

    model.train()
    saved_at = seconds
    while (progress := plan.progress(steps, seconds)) < 1:
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = plan.rate_at(steps, progress)
        value = loss(progress)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if steps % AVERAGE_EVERY == 0:
            kept = min(plan.memory, steps / (steps + 10)) ** AVERAGE_EVERY
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 1 - kept)
        running = torch.lerp(running, value.detach(), max(0.01, 1 / steps))
        seconds += min(time.perf_counter() - start, PAUSE)
        if steps % 50 == 0:
            mean = round(running.item(), 4)
            log.info("training", steps=steps, done=f"{progress:.1%}", loss=mean, seconds=round(seconds))
        if seconds - saved_at >= SAVE_EVERY:
            save()
            saved_at = seconds
    save()
    with torch.no_grad():
        torch._foreach_copy_(weights, average)
    model.eval()
