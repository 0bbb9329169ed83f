"""Rendering speed on a GPU, with architectures that people use and random weights: `python -m benchmarks.gpu`.

Weights do not change how long a model computes, so nothing is downloaded. Contestants run one after another, each
alone on the GPU; the table gives medians of rounds. Only rendering is timed: prompts are encoded before.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import chip, quality
from benchmarks.peers import Job
from momalisa.description import INDEX, KNOWN, read_json
from momalisa.settings import settings
from tests import tiny_parts, tiny_pipelines
from worker.rendering import embeddings, families, files, memory
from worker.rendering.layers import best_device, fastest_dtype
from worker.rendering.noise import seeded
from worker.rendering.parts import class_of
from worker.rendering.pipeline import Renderer

ROUNDS = 3

FLUX_PARTS: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "text_encoder_2": {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "transformer": {"guidance_embeds": False},  # all else is what diffusers' class has by default
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}
"""The configuration of FLUX.1 schnell, as its authors published it for diffusers."""


@dataclass(frozen=True)
class Architecture:
    """A kind of model, and a walk as people would have it."""

    title: str
    make: Callable[[torch.device], Any]
    """Returns its pipeline with random weights, made on a device."""
    tiny: str
    """The same in tiny: the name of a maker of `tests.tiny_pipelines`."""
    job: Job
    batch: int = 8
    """Frames at once."""
    target: float | None = None
    """Frames per second that a worker should render on one H200."""


def _known(name: str, device: torch.device) -> Any:
    """Return a pipeline with the configuration that MoMALisa has of a common model."""
    folder = KNOWN / name
    parts = {}
    for part, library, kind in files.parts(read_json(folder / INDEX)):
        made: Any = class_of(library, kind)
        if made is not None:
            config = read_json(folder / part / "config.json")
            is_transformers = issubclass(made, transformers.PreTrainedModel)
            with _half_precision(device):
                parts[part] = (
                    made(made.config_class.from_dict(config)) if is_transformers else made.from_config(config)
                )
    return diffusers.DiffusionPipeline.from_pretrained(folder, **parts, local_files_only=True)


def _flux(device: torch.device) -> Any:
    """Return a pipeline as large as FLUX.1 schnell, which reads T5's letters one by one."""
    with _half_precision(device):
        parts = {
            "vae": diffusers.AutoencoderKL(**FLUX_PARTS["vae"]),
            "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**FLUX_PARTS["text_encoder"])),
            "text_encoder_2": transformers.T5EncoderModel(transformers.T5Config(**FLUX_PARTS["text_encoder_2"])),
            "transformer": diffusers.FluxTransformer2DModel(**FLUX_PARTS["transformer"]),
        }
    return diffusers.FluxPipeline(
        **parts,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(KNOWN / "v1" / "tokenizer"),
        tokenizer_2=tiny_parts.t5_tokenizer(),
    )


@contextmanager
def _half_precision(device: torch.device) -> Iterator[None]:
    """Have the weights that are made in a block on a device, in half precision."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(usual)


PAIR = ("a giraffe", "a battleship")

ARCHITECTURES = {
    "sd15": Architecture(
        "Stable Diffusion 1.5", partial(_known, "v1"), "stable_diffusion", Job(PAIR, 16, 20, 7.5, 512), target=14
    ),
    "sdxl": Architecture(
        "Stable Diffusion XL", partial(_known, "xl_base"), "stable_diffusion_xl", Job(PAIR, 16, 30, 5.0, 1024)
    ),
    "flux": Architecture("FLUX.1 schnell", _flux, "schnell", Job(PAIR, 16, 4, 0.0, 1024)),
}
"""By the name on the command line."""


class Row(NamedTuple):
    """What was measured of a contestant."""

    name: str
    at_once: int
    """Frames that it renders in one batch."""
    seconds: list[float]
    """For the whole walk, one value per round."""
    peak_bytes: int | None
    """Most GPU memory that tensors took; None without CUDA."""


def main() -> None:
    """Measure, and write the tables."""
    parser = quality.parser("benchmarks.gpu", __doc__)
    parser.add_argument("only", nargs="?", choices=ARCHITECTURES, help="by default all of them")
    given = parser.parse_args()
    device = torch.device(settings().device or best_device())
    if device.type == "cpu" and not given.short:
        sys.exit("This needs a GPU; SHORT=1 tries it in small, and writes no document.")
    for name in [given.only] if given.only else ARCHITECTURES:
        with tempfile.TemporaryDirectory(prefix="momalisa-bench-") as folder:
            lines = list(measure(name, device, Path(folder), short=given.short))
        print("\n".join(lines))
        if device.type == "cuda" and not given.short:
            quality.write(f"bench-gpu-{name}", lines)


def measure(name: str, device: torch.device, folder: Path, *, short: bool) -> Iterator[str]:
    """Yield the lines of the report on an architecture; `short` renders two frames of a tiny one."""
    subject = ARCHITECTURES[name]
    if short:
        subject = replace(subject, job=replace(subject.job, frames=2, steps=1, size=64), batch=2)
    bench = Bench(subject, folder / "model", device, short=short)
    cache = settings().compile_cache_dir or (None if short else folder / "compiled")
    contestants: list[Callable[[], Row]] = [
        *(
            partial(bench.stock, batch, compiled=compiled)
            for compiled in (False, True)
            for batch in (1, subject.batch)
        ),
        *(partial(bench.worker, into) for into in dict.fromkeys((None, cache))),
    ]
    rows, failed = [], []
    try:
        bench.save()
        operations = bench.operations()
    except Exception as error:
        if not memory.ran_out(error):
            raise
        yield f"{subject.title} does not fit into the memory of {chip.name(device)}."
        return
    for contestant in contestants:
        bench.free()
        try:
            rows.append(contestant())
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are worth their time
            failed.append(f"{type(error).__name__}: {error}".splitlines()[0])
    yield from _table(name, subject, device, rows, failed, operations)


@dataclass(frozen=True)
class Bench:
    """An architecture on a device."""

    subject: Architecture
    model: Path
    """Folder of the model with random weights."""
    device: torch.device
    short: bool

    def save(self) -> None:
        """Make the model."""
        made = tiny_pipelines.MAKERS[self.subject.tiny]() if self.short else self.subject.make(self.device)
        made.save_pretrained(self.model)

    def free(self) -> None:
        """Give the device back what the contestant before used."""
        torch._dynamo.reset()
        memory.free(self.device)

    def operations(self) -> float:
        """Return the floating-point operations of a frame, counted."""
        render = self._stock(replace(self.subject.job, frames=2), 2, compiled=False)
        with FlopCounterMode(display=False) as counter:
            render()
        return float(counter.get_total_flops()) / 2

    def stock(self, batch: int, *, compiled: bool) -> Row:
        """Measure the stock pipeline, with `batch` frames a call."""
        name = f"stock pipeline{', compiled' if compiled else ''}"
        return Row(name, batch, *self._timed(self._stock(self.subject.job, batch, compiled=compiled)))

    def worker(self, cache: Path | None) -> Row:
        """Measure a worker, compiled if there is a folder for that.

        Raises:
            RuntimeError: if it cannot be compiled.
        """
        job, batch = self.subject.job, self.subject.batch
        renderer = Renderer(str(self.model), batch_size=batch, device=str(self.device))
        if cache is not None and not renderer.compile(job.size, cache):
            raise RuntimeError("the worker could not compile its denoiser; its log says why")
        measured = self._timed(lambda: renderer.render(job.spec, job.positions))
        name = f"worker of MoMALisa{', compiled' if cache else ''}"
        return Row(name, renderer.batch_that_fits(job.spec, batch), *measured)

    def _timed(self, render: Callable[[], object]) -> tuple[list[float], int | None]:
        """Return the seconds that each round takes, after one that is not measured, and the most memory taken."""
        is_cuda = self.device.type == "cuda"
        if not self.short:
            render()
        if is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = []
        for _ in range(1 if self.short else ROUNDS):
            chip.synchronize(self.device)
            start = time.perf_counter()
            render()
            chip.synchronize(self.device)
            seconds.append(time.perf_counter() - start)
        return seconds, torch.cuda.max_memory_allocated(self.device) if is_cuda else None

    def _stock(self, job: Job, batch: int, *, compiled: bool) -> Callable[[], None]:
        """Return what renders a walk with the stock pipeline, in half precision; its prompts are encoded now."""
        family = families.FAMILIES[str(read_json(self.model / INDEX)["_class_name"])]
        dtype = fastest_dtype(self.device, family.denoiser)
        pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(self.model, torch_dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(self.device)
        negative = "" if families.guides(pipeline, job.guidance) else None
        start, end = (families.encode(pipeline, family, prompt, negative, self.device) for prompt in job.prompts)
        if compiled:
            self._compile(pipeline, family.denoiser)

        def render() -> None:
            for first in range(0, job.frames, batch):
                points = job.positions[first : first + batch]
                rows = embeddings.batch([embeddings.between(start, end, point) for point in points])
                pipeline(
                    **{name: tensor.to(self.device, dtype) for name, tensor in rows.items()},
                    **family.arguments,
                    **{family.guidance: job.guidance},
                    generator=[seeded(job.seed) for _ in points],
                    num_inference_steps=job.steps,
                    width=job.size,
                    height=job.size,
                    output_type="np",
                )

        return render

    def _compile(self, pipeline: Any, part: str) -> None:
        """Compile a pipeline as "Accelerate inference" in the documentation of diffusers recommends.

        Source: https://huggingface.co/docs/diffusers/optimization/fp16
        """
        how: dict[str, Any] = {"mode": "max-autotune", "fullgraph": True, "disable": self.short}
        if part == "unet":
            for each in (pipeline.unet, pipeline.vae):
                each.to(memory_format=torch.channels_last)
        setattr(pipeline, part, torch.compile(getattr(pipeline, part), **how))
        pipeline.vae.decode = torch.compile(pipeline.vae.decode, **how)


def _table(
    name: str, subject: Architecture, device: torch.device, rows: list[Row], failed: list[str], operations: float
) -> Iterator[str]:
    job = subject.job
    peak, source = chip.peak(device)
    yield (
        f"`make bench-gpu ONLY={name}`: {subject.title} with random weights, {job.size} × {job.size} pixels, "
        f"{job.steps} steps, guidance {job.guidance:g}; a walk of {job.frames} frames; {chip.name(device)}, torch "
        f"{torch.__version__}, diffusers {diffusers.__version__}; medians of {ROUNDS} rounds. A frame takes "
        f"{operations / 1e12:.3g} × 10¹² operations, and the chip is capable of {peak / 1e12:.3g} × 10¹² a second "
        f"({source})."
    )
    yield ""
    yield "| | frames at once | frames/s | slowest to fastest round | share of the chip's peak | GPU memory, GB |"
    yield "|---|--:|--:|--:|--:|--:|"
    fastest = {"stock": 0.0, "worker": 0.0}
    for row in rows:
        rates = sorted(job.frames / seconds for seconds in row.seconds)
        median = job.frames / statistics.median(row.seconds)
        kind = row.name.split()[0]
        fastest[kind] = max(fastest[kind], median)
        taken = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.1f}"
        yield (
            f"| {row.name} | {row.at_once} | {median:.2f} | {rates[0]:.2f} to {rates[-1]:.2f} "
            f"| {median * operations / peak:.0%} | {taken} |"
        )
    for reason in failed:
        yield f"| failed: {reason} | | | | | |"
    if not all(fastest.values()):
        return
    yield ""
    yield "| the faster worker | measured | target |"
    yield "|---|---|---|"
    yield f"| ÷ the fastest stock form | {fastest['worker'] / fastest['stock']:.2f} | ≥ 1.5 |"
    if subject.target is not None:
        yield f"| frames/s, on one H200 | {fastest['worker']:.2f} | ≥ {subject.target:g} |"


if __name__ == "__main__":
    main()
