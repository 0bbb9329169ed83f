"""`make bench-scale`: how the system scales to many workers, of which only the GPUs are simulated.

The API, PostgreSQL, Valkey, the reconciler, the bucket emulator and the code of the workers are real. So is the
contention on this machine, which a fleet would not have, because there each worker has its own processors.
"""

import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from benchmarks import quality
from benchmarks.fleet import PARTS, WALK, Bench, Visitor, submit_many, wait_until
from momalisa.local import stack
from momalisa.local.processes import Child, free_port
from momalisa.settings import ROOT

PAGE = ROOT / "docs" / "scaling.md"

LEVELS = (1, 16, 64, 128)
"""Numbers of render workers."""

BIG = 30
"""Number of workers for one big walk: as many as it has chunks."""

MOST = 8
"""Maximum number of workers in the KEDA loop."""

LOOP_WALKS = 32
"""Number of walks in the KEDA loop: enough that it starts the maximum number of workers."""

CHUNK_SECONDS = 8.0
"""Seconds that the simulated GPU takes for a batch (`docs/scaling.md` says which GPU)."""

BATCH = 8
"""Frames in a chunk."""

BIG_WALK = {**WALK, "frames": 240, "pacing": "linear", "exact": True}
"""A walk of which all 30 chunks can be rendered at once: it has one pass."""

SMALL_WALK = {**WALK, "width": 128, "height": 128}
"""A walk of the KEDA loop; small, because these walks are really assembled."""

ROUNDS = 3
"""Number of chunks per worker in a measurement."""

CHART = ROOT / "infra" / "helm" / "momalisa"
"""The chart with KEDA's queries."""
SCALED = ("ScaledObject", "momalisa-render-main")
HELM = ROOT / ".venv" / "kubernetes-tools" / "helm" / "helm"

STATEMENTS = 4.0
"""Target: maximum number of statements per frame."""

SETTINGS = {"BATCH_SIZE": str(BATCH), "MAX_SIZE": "512"}


@dataclass
class Level:
    """The measurements of a number of workers with a backlog."""

    workers: int
    share: float
    """Share of the workers' time that was spent rendering."""
    frames: int
    seconds: float
    statements: dict[str, int]
    visitor: Visitor


def backlog(bench: Bench, workers: int, chunk_seconds: float) -> Level:
    """Measure workers with a backlog."""
    bench.empty()
    submit_many(bench, math.ceil((ROUNDS + 4) * workers * BATCH / WALK["frames"]) + 2, WALK)
    bench.worker("fleet", "render", workers, chunk_seconds)
    wait_until(lambda: len([spans for spans in bench.spans().values() if len(spans) > 1]) == workers, 120)
    visitor = Visitor(bench.url)
    before, frames = bench.statements(), bench.number(FRAMES)
    start = time.monotonic()
    with visitor.visiting():
        time.sleep(ROUNDS * chunk_seconds)
    end = time.monotonic()
    after, frames = bench.statements(), bench.number(FRAMES) - frames
    assert bench.number(QUEUED) > 0, "the backlog was too short"
    rendered = sum(overlap(spans, start, end) for spans in bench.spans().values())
    bench.dismiss("fleet")
    sent = {part: after[part] - before[part] for part in PARTS}
    return Level(workers, rendered / workers / (end - start), frames, end - start, sent, visitor)


FRAMES = "SELECT count(*) FROM frames WHERE object IS NOT NULL"
QUEUED = "SELECT count(*) FROM chunks WHERE kind = 'render' AND status = 'queued'"


def overlap(spans: list[tuple[float, float]], start: float, end: float) -> float:
    """Return the share of the time from start to end that is covered by spans."""
    return sum(max(0.0, min(until, end) - max(since, start)) for since, until in spans)


def big_walk(bench: Bench, workers: int, chunk_seconds: float) -> float:
    """Return the seconds from submitting one big walk to its last frame, without other work."""
    bench.empty()
    bench.worker("fleet", "render", workers, chunk_seconds)
    log = bench.children["fleet"].log
    wait_until(lambda: log.read_text().count('"renderer ready"') == workers, 120)
    for walks in (1, 2):  # the first one opens all connections
        started = time.monotonic()
        submit_many(bench, 1, BIG_WALK)
        wait_until(lambda: bench.number(FRAMES) == walks * BIG_WALK["frames"], 300)  # noqa: B023
        seconds = time.monotonic() - started
    bench.dismiss("fleet")
    return seconds


@dataclass
class Loop:
    """The measurements while workers were scaled like KEDA."""

    walks: int
    succeeded: int
    peak: int
    seconds: float
    busy_victims: int
    lost: int
    """Chunks that needed a second attempt, or lost a lease."""
    statements: dict[str, float]
    """Statements per frame, by part, from submission to artifacts."""
    idle: bool
    """Whether there were no workers and no work at the end."""


def keda(bench: Bench, walks: int, chunk_seconds: float) -> Loop:
    """Start and stop workers like KEDA and the autoscaler, from none to none, and check that all walks succeed.

    It is harsher than they are: it checks every second, and stops workers at once, busy or not.
    """
    bench.empty()
    triggers = scaled()
    before = bench.statements()
    bench.worker("assembly", "assemble", 1, chunk_seconds)
    submit_many(bench, walks, SMALL_WALK)
    started = time.monotonic()
    names: list[str] = []
    leaving: list[Child] = []
    peak = victims = number = 0
    while True:
        desired = min(MOST, max(math.ceil(bench.number(query) / target) for query, target in triggers))
        while len(names) < desired:
            number += 1
            names.append(f"pod-{number}")
            bench.worker(names[-1], "render", 1, chunk_seconds)
        while len(names) > desired:
            name = names.pop(random.randrange(len(names)))  # noqa: S311 - as the autoscaler picks
            victims += busy(bench, name)
            leaving.append(bench.children.pop(name))
            leaving[-1].signal_stop()
        peak = max(peak, len(names))
        if not names and bench.number("SELECT count(*) FROM walks WHERE finished_at IS NULL") == 0:
            break
        if time.monotonic() - started > 600:  # noqa: PLR2004
            break
        time.sleep(1)
    seconds = time.monotonic() - started
    for child in leaving:
        child.wait_stopped(time.monotonic() + stack.STOP_SECONDS)
    bench.dismiss("assembly", *names)
    after = bench.statements()
    succeeded = bench.number("SELECT count(*) FROM walks WHERE status = 'succeeded'")
    left = bench.number("SELECT count(*) FROM chunks WHERE status IN ('queued', 'leased')")
    lost = bench.number("SELECT count(*) FROM chunks WHERE attempts > 1 OR error IS NOT NULL")
    frames = walks * SMALL_WALK["frames"]
    return Loop(
        walks=walks,
        succeeded=succeeded,
        peak=peak,
        seconds=seconds,
        busy_victims=victims,
        lost=lost,
        statements={part: (after[part] - before[part]) / frames for part in PARTS},
        idle=not names and left == 0,
    )


def busy(bench: Bench, name: str) -> bool:
    """Return whether a worker holds a chunk."""
    process = bench.children[name].process
    assert process
    children = psutil.Process(process.pid).children()
    query = "SELECT count(*) FROM chunks WHERE status = 'leased' AND split_part(worker, ':', 2)::int = ANY(%s)"
    with bench.database() as database:
        row = database.execute(query, [[child.pid for child in children]]).fetchone()
    return bool(row and row[0])


def scaled() -> list[tuple[str, float]]:
    """Return the queries by which KEDA scales render workers, each with its target value per worker."""
    command = [str(HELM), "template", "momalisa", str(CHART), "--set", "autoscaling.enabled=true"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    objects = [each for each in yaml.safe_load_all(rendered) if each]
    [found] = [each for each in objects if (each["kind"], each["metadata"]["name"]) == SCALED]
    metadata = [trigger["metadata"] for trigger in found["spec"]["triggers"]]
    return [(trigger["query"], float(trigger["targetQueryValue"])) for trigger in metadata]


def median(values: list[float]) -> float:
    """Return the median in milliseconds."""
    return 1000 * statistics.median(values)


def late(values: list[float]) -> float:
    """Return the 95th percentile in milliseconds."""
    return 1000 * statistics.quantiles(values, n=20)[-1]


def table(levels: list[Level], idle: Visitor, chunk_seconds: float) -> Iterator[str]:
    """Yield the lines of the backlog table."""
    yield (
        "| workers | time spent rendering | frames a second | of the ideal | statements a frame: workers"
        " | reconciler | submission, median (95 %) | poll, median (95 %) |"
    )
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|"
    yield f"| idle | | | | | | {latency(idle.submitted)} | {latency(idle.polled)} |"
    for level in levels:
        ideal = level.workers * BATCH / chunk_seconds * level.seconds
        visitor = level.visitor
        frames = f"{level.frames / level.seconds:.1f} | {level.frames / ideal:.0%}"
        yield (
            f"| {level.workers} | {level.share:.1%} | {frames}"
            f" | {level.statements['render'] / level.frames:.2f}"
            f" | {level.statements['reconciler'] / level.frames:.2f}"
            f" | {latency(visitor.submitted)}, ×{median(visitor.submitted) / median(idle.submitted):.1f}"
            f" | {latency(visitor.polled)}, ×{median(visitor.polled) / median(idle.polled):.1f} |"
        )


def latency(values: list[float]) -> str:
    """Format the median and the 95th percentile."""
    return f"{median(values):.0f} ms ({late(values):.0f})"


def big_table(workers: int, seconds: float, chunk_seconds: float) -> Iterator[str]:
    """Yield the lines of the table of the big walk."""
    ideal = math.ceil(BIG_WALK["frames"] / BATCH / workers) * chunk_seconds
    yield "| workers | to the last frame | of that the GPUs' own time |"
    yield "|--:|--:|--:|"
    yield f"| {workers} | {seconds:.1f} s | {ideal / seconds:.0%} |"


def loop_table(loop: Loop) -> Iterator[str]:
    """Yield the lines of the table of the KEDA loop."""
    yield "| | |"
    yield "|---|---|"
    yield f"| walks that succeeded | {loop.succeeded} of {loop.walks} |"
    yield f"| workers | from 0 to {loop.peak} (at most {MOST}) and back to 0, in {loop.seconds:.0f} s |"
    yield f"| stopped while they were busy | {loop.busy_victims}; their chunks were released |"
    yield f"| chunks that cost a second attempt, or whose worker vanished | {loop.lost} |"
    yield f"| statements a frame: submissions by the API | {loop.statements['api']:.2f} |"
    yield f"| render workers | {loop.statements['render']:.2f} |"
    yield f"| assembly workers | {loop.statements['assemble']:.2f} |"


def main() -> int:
    """Measure, and write the tables into docs/scaling.md unless short; return 1 if work was lost."""
    short = quality.parser("benchmarks.scale", __doc__).parse_args().short
    levels, big, chunk_seconds = ((1, 4), 4, 1.0) if short else (LEVELS, BIG, CHUNK_SECONDS)

    def tell(name: str, lines: Iterable[str]) -> None:
        lines = list(lines)
        print("\n".join([*lines, ""]), flush=True)
        if not short:
            quality.write(name, lines, PAGE)

    with tempfile.TemporaryDirectory(prefix="momalisa-") as folder:
        bench = Bench(Path(folder), port=free_port(), variables=SETTINGS)
        with stack.started(bench, print):
            idle = Visitor(bench.url)
            with idle.visiting():
                time.sleep(4 if short else 15)
            seen = []
            for workers in levels:
                seen.append(backlog(bench, workers, chunk_seconds))
                print(f"{workers} workers: {seen[-1].share:.1%} of their time spent rendering", flush=True)
            tell("backlog", table(seen, idle, chunk_seconds))
            tell("big-walk", big_table(big, big_walk(bench, big, chunk_seconds), chunk_seconds))
            loop = keda(bench, 8 if short else LOOP_WALKS, chunk_seconds / 4)
    busiest = seen[-1]
    sent = loop.statements["api"] + loop.statements["render"] + loop.statements["assemble"]
    total = (
        f"{sent:.2f} statements a frame, of {STATEMENTS:g} at most; the reconciler's go by time, and are"
        f" {busiest.statements['reconciler'] / busiest.frames:.2f} more with {busiest.workers} workers."
    )
    tell("keda", [*loop_table(loop), "", total])
    failures = [
        *(["a walk did not succeed"] if loop.succeeded < loop.walks else []),
        *(["a chunk was lost"] if loop.lost else []),
        *(["workers or chunks were left"] if not loop.idle else []),
        *(["too many statements"] if sent > STATEMENTS else []),
    ]
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
