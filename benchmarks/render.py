"""Rendering speed, in comparison: `python -m benchmarks.render`.

All contestants run in every round, so that other load on the machine affects all alike; the table gives medians.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import chip, peers, quality
from benchmarks.peers import Job, Pictures
from momalisa import description
from momalisa.client import Client
from momalisa.client import Walk as WalkAnswer
from momalisa.domain import path
from momalisa.local import stack
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import settings
from worker.media import encoders
from worker.media.metadata import frame_caption
from worker.rendering.pipeline import Renderer

PAIRS = [
    ("a giraffe", "a battleship"),
    ("a cat", "a castle"),
    ("an apple", "a planet"),
    ("a fox", "a sailing boat"),
]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

POLL_SECONDS = 0.1

STEPS = 20
"""Denoising steps of a frame, as common with stock pipelines; the bundled model needs fewer."""

Contestant = Callable[[Job, Path], Pictures]
"""Renders a walk, leaves its frames as PNG files in a folder, and returns them."""


@dataclass
class Times:
    """The measurements of a contestant, in seconds, one value per round."""

    seconds: list[float] = field(default_factory=list)
    """For all walks."""
    previews: list[float] = field(default_factory=list)
    """From submitting a walk to its first frames; for systems."""
    chunks: list[float] = field(default_factory=list)
    """For rendering the chunk of these frames, according to the worker; for systems."""
    shares: list[float] = field(default_factory=list)
    """Share of all processors' time that was not spent by render workers; for systems."""


def main() -> None:
    """Measure, and write the table."""
    short = quality.parser("benchmarks.render", __doc__).parse_args().short
    pairs, frames, steps, rounds = (PAIRS[:1], 16, 2, 1) if short else (PAIRS[:2], 32, STEPS, 3)
    size = 64 if short else description.of_settings().size
    jobs = [Job(pair, frames, steps, description.of_settings().guidance, size) for pair in pairs]
    alone = _contestants()
    times = {name: Times() for name in [*alone, *map(_system_name, (1, 2))]}
    pictures: dict[str, list[Pictures]] = {}
    with ExitStack() as contexts:
        folder = Path(contexts.enter_context(tempfile.TemporaryDirectory(prefix="momalisa-bench-")))
        systems = {
            workers: contexts.enter_context(
                stack.started(LocalStack(folder / f"{workers}", port=free_port(), workers=workers))
            )
            for workers in (1, 2)
        }
        for contestant in alone.values():
            contestant(Job(PAIRS[0], settings().batch_size, 1, 4.0, size), folder)
        for system in systems.values():
            wait_for_workers(system)
            _submit(system, jobs[:1])
        for _ in range(rounds):
            for name, contestant in alone.items():
                start = time.perf_counter()
                pictures[name] = [contestant(job, folder) for job in jobs]
                times[name].seconds.append(time.perf_counter() - start)
            for workers, system in systems.items():
                measured = times[_system_name(workers)]
                seconds, share = _submit(system, jobs)
                measured.seconds.append(seconds)
                measured.shares.append(share)
                preview, chunk = _preview(system, jobs[0])
                measured.previews.append(preview)
                measured.chunks.append(chunk)
    table = list(_table(jobs, times, pictures))
    print("\n".join(table))
    if not short:
        quality.write("bench-render", table)


def _contestants() -> dict[str, Contestant]:
    model, batch = settings().model, settings().batch_size
    precise, half = peers.load(model), peers.load(model, torch.bfloat16)
    workers = {_worker_name(): partial(_worker, Renderer(model, batch_size=batch))}
    if folder := settings().compile_cache_dir:
        compiled = Renderer(model, batch_size=batch)
        compiled.compile(description.of_settings().size, folder)
        workers[_worker_name(", compiled")] = partial(_worker, compiled)
    return {
        "(a) stock pipeline, one call a frame, float32": partial(peers.stock, precise, batch=1),
        "(b) stock pipeline, all frames of a walk in one call, float32": lambda job, folder: peers.stock(
            precise, job, folder, batch=job.frames
        ),
        _stock_name("float32"): partial(peers.stock, precise, batch=batch),
        _stock_name("bfloat16"): partial(peers.stock, half, batch=batch),
        "(c) stable-diffusion-videos, batches of 4, float32": partial(peers.videos, precise),
        "(c) diffusers' community pipeline, batches of 4, float32": partial(peers.community, precise),
        **workers,
    }


def _stock_name(dtype: str) -> str:
    return f"(b) stock pipeline, batches of {settings().batch_size}, {dtype}"


def _worker_name(how: str = "") -> str:
    return f"(d) one render worker of MoMALisa{how}, chunks of {settings().batch_size}"


def _system_name(workers: int) -> str:
    threads = max(1, CORES // workers)
    return f"(e) the whole system, {workers} × {threads} threads"


def _worker(renderer: Renderer, job: Job, folder: Path) -> Pictures:
    """Render a walk as a worker does: chunk by chunk, coarse to fine."""
    spec = job.spec
    found: dict[int, Pictures] = {}
    for chunk in path.chunks(job.frames, renderer.batch_size):
        rendering = renderer.render(spec, [job.positions[index] for index in chunk])
        for index, picture in zip(chunk, rendering.pictures, strict=True):
            png = encoders.encode_png(picture, frame_caption(spec, settings().model_name, job.positions[index]))
            (folder / f"{index:06}.png").write_bytes(png)
            found[index] = picture
    return np.stack([found[index] for index in sorted(found)])


def _ceiling(job: Job) -> float:
    """Return the frames/s of a worker if it only computed large matrix products in its number format."""
    renderer = Renderer(settings().model, batch_size=settings().batch_size)
    with FlopCounterMode(display=False) as counter:
        renderer.render(job.spec, job.positions[: renderer.batch_size])
    rate = chip.product_rate(renderer.device, renderer.denoiser.dtype)
    return rate / float(counter.get_total_flops()) * renderer.batch_size


def wait_for_workers(system: LocalStack) -> None:
    """Wait until all render workers have loaded the model."""
    logs = [child.log for name, child in system.children.items() if name.startswith("render-")]
    while not all('"renderer ready"' in log.read_text() for log in logs):
        time.sleep(POLL_SECONDS)


def _submit(system: LocalStack, jobs: list[Job]) -> tuple[float, float]:
    """Return the seconds from submitting walks to their last frame; wait until they are assembled, too.

    Also returns the share of all processors' time that the system spent outside of its render workers.
    """
    with Client(system.url) as client:
        start, before = time.perf_counter(), _processor_seconds(system)
        walks = [_submitted(client, job) for job in jobs]
        seen = [watched(client, walk, all_there) for walk in walks]
        seconds, others = time.perf_counter() - start, _processor_seconds(system) - before
        for walk in seen:
            watched(client, walk, done)
    return seconds, others / (seconds * CORES)


def _processor_seconds(system: LocalStack) -> float:
    """Return the processor time of the parts of a system that do not render."""
    processes = []
    for name, child in system.children.items():
        if child.process is not None and not name.startswith("render-"):
            parent = psutil.Process(child.process.pid)
            processes += [parent, *parent.children(recursive=True)]
    seconds = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a PostgreSQL backend ended, and now counts for its parent
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _preview(system: LocalStack, job: Job) -> tuple[float, float]:
    """Return the seconds from submitting a walk to an idle system until its first frames are available.

    Also returns how many of these seconds were spent rendering the frames.
    """
    with Client(system.url) as client:
        start = time.perf_counter()
        walk = watched(client, _submitted(client, job), lambda walk: next(_urls(walk), None) is not None)
        client.download(next(_urls(walk)))
        seconds = time.perf_counter() - start
        watched(client, walk, done)
    chunks = [_rendered(child.log, walk["id"]) for child in system.children.values()]
    return seconds, next(chunk for chunk in chunks if chunk is not None)


def watched(client: Client, walk: WalkAnswer, holds: Callable[[WalkAnswer], bool]) -> WalkAnswer:
    """Return a walk as soon as it satisfies a condition, or is done."""
    for seen in client.watch(walk):
        walk = seen
        if holds(walk):
            break
    return walk


def _rendered(log: Path, walk: str) -> float | None:
    """Return the seconds that a worker took for the first chunk of a walk, or None if it did not render it."""
    for line in log.read_text().splitlines():
        if '"batch rendered"' in line:
            event = json.loads(line)
            if (event["walk"], event["chunk"]) == (walk, 0):
                return float(event["seconds"])
    return None


def _submitted(client: Client, job: Job) -> WalkAnswer:
    options = {"steps": job.steps, "guidance": job.guidance, "seed": job.seed}
    return client.submit(job.prompts, frames=job.frames, width=job.size, height=job.size, **options)


def _urls(walk: WalkAnswer) -> Iterator[str]:
    return (frame["url"] for frame in walk["frames"] if frame["url"])


def all_there(walk: WalkAnswer) -> bool:
    """Return whether all frames of a walk are rendered."""
    return bool(walk["progress"]["frames_done"] == walk["frames_total"])


def done(walk: WalkAnswer) -> bool:
    """Return whether a walk is in a final state."""
    return bool(walk["done"])


def _table(jobs: list[Job], times: dict[str, Times], pictures: dict[str, list[Pictures]]) -> Iterator[str]:
    """Yield the lines of the report."""
    frames = sum(job.frames for job in jobs)
    rounds = len(next(iter(times.values())).seconds)
    speed = {name: frames / statistics.median(measured.seconds) for name, measured in times.items()}
    naive, best, half = next(iter(speed)), _best_float32(speed), _stock_name("bfloat16")
    worker = max((name for name in speed if name.startswith("(d)")), key=speed.__getitem__)
    ceiling = _ceiling(jobs[0])
    where = " COMPILE_CACHE_DIR=…" if settings().compile_cache_dir else ""
    yield (
        f"`make bench-render{where}`: {len(jobs)} walks of {jobs[0].frames} frames, {jobs[0].steps} steps, "
        f"{jobs[0].size} × {jobs[0].size} pixels, {settings().model_name}; {CORES} cores, "
        f"torch {torch.__version__}; medians of {rounds} interleaved rounds."
    )
    yield ""
    yield "| | frames/s | slowest to fastest round | × (a) |"
    yield "|---|---|---|---|"
    for name, measured in times.items():
        rates = sorted(frames / seconds for seconds in measured.seconds)
        ratio = speed[name] / speed[naive]
        yield f"| {name} | {speed[name]:.2f} | {rates[0]:.2f} to {rates[-1]:.2f} | {ratio:.2f} |"
    yield ""
    yield "| ratio, with the faster (d) | measured | target |"
    yield "|---|---|---|"
    yield f"| (d) ÷ (a) | {speed[worker] / speed[naive]:.2f} | ≥ 6 |"
    yield f"| the same if each operation were as fast as a large matrix product | {ceiling / speed[naive]:.2f} | |"
    yield f"| (d) ÷ the best of (b) and (c) in float32 | {speed[worker] / speed[best]:.2f} | ≥ 2 |"
    yield f"| (d) ÷ (b) in bfloat16 | {speed[worker] / speed[half]:.2f} | ≥ 1.2 |"
    for name in map(_system_name, (1, 2)):
        yield f"| {name} ÷ (d) | {speed[name] / speed[worker]:.2f} | ≥ 0.95 |"
        share = statistics.median(times[name].shares)
        yield f"| {name}: share of the processors' time that went to anything but rendering | {share:.2f} | |"
    difference = np.abs(
        np.stack(pictures[worker]).astype(int) - np.stack(pictures[_stock_name("float32")]).astype(int)
    )
    yield f"| mean difference of (d) to (b) in float32, levels of 255 | {difference.mean():.2f} | < 2 |"
    yield f"| its 99th percentile, and the most | {np.percentile(difference, 99):.0f}, {difference.max()} | |"
    for name in map(_system_name, (1, 2)):
        preview, chunk = (statistics.median(values) for values in (times[name].previews, times[name].chunks))
        yield (
            f"| {name}: first preview ({preview:.2f} s) ÷ rendering one chunk ({chunk:.2f} s) "
            f"| {preview / chunk:.2f} | ≤ 1.5 |"
        )


def _best_float32(speed: dict[str, float]) -> str:
    return max(
        (name for name in speed if name[:3] in {"(b)", "(c)"} and name.endswith("float32")), key=speed.__getitem__
    )


if __name__ == "__main__":
    main()
