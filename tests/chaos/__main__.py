"""Run the system under faults: `python -m tests.chaos --seed 7 --walks 300 --faults 500`."""

import argparse
import contextlib
import random
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import psycopg

from momalisa.local import stack
from momalisa.local.processes import free_port
from tests.chaos import oracle
from tests.chaos.faults import MATRIX, Fault, Miss
from tests.chaos.stage import ORDERS, Stage, lacking

AT_ONCE = 12
"""Concurrent walks."""

OPEN_WALKS = "SELECT count(*) FROM walks WHERE status IN ('queued', 'running', 'assembling')"

MIXED = 0.2
"""Share of faults that are injected together with others."""

PATIENCE = 240
"""Seconds after the last fault within which every walk must have ended."""


def main() -> int:
    """Run, report, and return 1 if anything was wrong."""
    arguments = _arguments()
    if lack := lacking():
        sys.exit(lack)
    folder = Path(tempfile.mkdtemp(prefix="momalisa-chaos-"))
    stage = Stage(folder, port=free_port(), workers=arguments.workers, seed=arguments.seed, outage=arguments.outage)
    _say(
        f"Chaos from seed {arguments.seed}: {arguments.faults} faults over {arguments.walks} walks. Logs: {folder}"
    )
    _say(f"Through PgBouncer: {', '.join(stage.pooled)}. The others go to PostgreSQL itself.")
    try:
        with stack.started(stage):
            expected = oracle.reference(stage, _undisturbed(stage))
            _say("The reference is rendered; now the faults.")
            faults = _disturb(stage, arguments.walks, arguments.faults)
            _say("All faults are injected; waiting for the last walks.")
            _settle(stage)
            verdict = oracle.judge(stage, expected, [(fault.part, start, end) for fault, start, end in faults])
        verdict.wrongs += _left_over(stage)
    finally:
        stage.close_proxies()
    table = "\n".join(_table(arguments, stage, faults, verdict))
    print(table)
    if arguments.report:
        arguments.report.write_text(table + "\n")
    for wrong in verdict.wrongs:
        print(f"WRONG: {wrong}")
    if verdict.wrongs or arguments.keep:
        print(f"The logs are in {folder}.")
    else:
        shutil.rmtree(folder)
    if verdict.wrongs:
        return 1
    print(f"chaos: {sum(verdict.walks.values())} passed, 0 failed")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="drawn if left out")
    parser.add_argument("--walks", type=int, default=40, help="walks to submit (at least)")
    parser.add_argument("--faults", type=int, default=len(MATRIX), help="faults to inject")
    parser.add_argument("--workers", type=int, default=3, help="render workers")
    parser.add_argument("--outage", type=float, default=6, help="seconds of the longest outage of each kind")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all data and logs")
    parser.add_argument("--report", type=Path, help="write the table to this file, too")
    return parser.parse_args()


def _say(sentence: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {sentence}", flush=True)


def _undisturbed(stage: Stage) -> dict[int, str]:
    """Make a walk of each kind without faults, and return them."""
    with httpx.Client(timeout=10) as http:
        walks = {order: stage.submit(http, order) or "" for order in range(len(ORDERS))}
    finished = stage.until(
        lambda: stage.rows("SELECT count(*) FROM walks WHERE status = 'succeeded'") == [(len(ORDERS),)], seconds=240
    )
    if not finished:
        raise RuntimeError(f"walks do not even succeed without faults; the logs are in {stage.folder}")
    return walks


def _disturb(stage: Stage, walks: int, faults: int) -> list[tuple[Fault, datetime, datetime]]:
    """Inject faults while walks are submitted and polled; return those that hit something, with their times."""
    over = threading.Event()
    visitors = [
        threading.Thread(target=_submit, args=(stage, walks, over)),
        threading.Thread(target=_poll, args=(stage, over)),
    ]
    for visitor in visitors:
        visitor.start()
    injected: list[tuple[Fault, datetime, datetime]] = []

    def inject(fault: Fault) -> None:
        start = datetime.now(UTC)
        try:
            fault.inject(stage)
        except (Miss, psycopg.OperationalError, httpx.TransportError):
            return  # nothing to hit, or another fault interfered
        end = datetime.now(UTC)
        injected.append((fault, start, end))
        with (stage.folder / "faults.log").open("a") as log:
            print(f"{start:%H:%M:%S} to {end:%H:%M:%S} {fault.part}: {fault.name}", file=log)

    def missing() -> set[Fault]:
        return set(MATRIX) - {fault for fault, *_ in injected}

    def next_faults() -> list[Fault]:
        """Return the next faults while more are needed; at the end only those that have not hit anything yet."""
        if len(injected) < faults:
            return next(program)
        return next(together for together in program if together[0] in missing()) if missing() else []

    program = _program(stage.random)
    reported = 0
    try:
        with ThreadPoolExecutor(4) as pool:
            while len(injected) < faults or len(stage.diary.accepted) < walks or missing():
                together = next_faults()
                running = {pool.submit(inject, fault) for fault in together}
                while running:  # the main thread restarts what the faults have ended
                    stage.tend()
                    done, running = wait(running, timeout=0.1)
                    for future in done:
                        future.result()
                ends = time.monotonic() + stage.random.uniform(0.1, 0.5)
                while time.monotonic() < ends:
                    stage.tend()
                    time.sleep(0.05)
                if len(injected) >= reported + 25:
                    reported = len(injected)
                    _say(f"{reported} faults, {len(stage.diary.accepted)} walks")
    finally:
        over.set()
        for visitor in visitors:
            visitor.join()
    return injected


def _program(chance: random.Random) -> Iterator[list[Fault]]:
    """Yield faults forever: all rows in random order, repeatedly, sometimes together with others."""
    while True:
        for fault in chance.sample(MATRIX, len(MATRIX)):
            others = [other for other in MATRIX if other.part != fault.part]
            yield [fault, *(chance.sample(others, chance.choice([1, 2])) if chance.random() < MIXED else [])]


def _submit(stage: Stage, walks: int, over: threading.Event) -> None:
    """Keep some walks in the system."""
    with httpx.Client(timeout=15) as http:
        while not over.is_set():
            [(active,)] = stage.rows(OPEN_WALKS) or [(AT_ONCE,)]
            if active < AT_ONCE or len(stage.diary.accepted) < walks // 10:
                stage.submit(http)
            over.wait(0.1)


def _poll(stage: Stage, over: threading.Event) -> None:
    """Poll every walk until it is done, as visitors do, and record its statuses."""
    with httpx.Client(timeout=15) as http:
        while not over.is_set():
            for walk_id in list(stage.diary.accepted):
                seen = stage.diary.seen.setdefault(walk_id, [])
                if seen and oracle.RANK[seen[-1]] == oracle.RANK["succeeded"]:
                    continue
                with contextlib.suppress(httpx.TransportError):
                    answer = http.get(f"{stage.url}/v1/walks/{walk_id}")
                    if answer.status_code == 200 and answer.json()["status"] not in seen[-1:]:
                        seen.append(answer.json()["status"])
                    elif answer.status_code not in {200, 404, 503}:
                        stage.wrong(f"a poll was answered with {answer.status_code}")
            over.wait(0.1)


def _settle(stage: Stage) -> None:
    """Wait until every walk is final."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        stage.tend()
        [(open_walks,)] = stage.rows(
            "SELECT count(*) FROM walks WHERE status IN ('queued', 'running', 'assembling')"
        )
        [(leased,)] = stage.rows("SELECT count(*) FROM chunks WHERE status = 'leased'")
        with contextlib.suppress(httpx.TransportError):
            if not open_walks and not leased and httpx.get(f"{stage.url}/readyz").is_success:
                return
        time.sleep(0.2)


def _left_over(stage: Stage) -> list[str]:
    """Return the processes that are left after the system has stopped."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("BROKER_URL") == stage.variables["BROKER_URL"]:
                found.append(f"process {process.pid} was left behind: {process.cmdline()}")
                process.kill()
    return found


def _table(
    arguments: argparse.Namespace,
    stage: Stage,
    faults: list[tuple[Fault, datetime, datetime]],
    verdict: oracle.Verdict,
) -> Iterator[str]:
    counts = Counter((fault.part, fault.name) for fault, *_ in faults)
    yield "| part | fault | times |"
    yield "|---|---|---|"
    for fault in MATRIX:
        yield f"| {fault.part} | {fault.name} | {counts[fault.part, fault.name]} |"
    yield ""
    yield "| figure | value |"
    yield "|---|---|"
    yield f"| seed | {arguments.seed} |"
    yield f"| through PgBouncer | {', '.join(stage.pooled)} |"
    yield f"| faults | {len(faults)}, of {len(counts)} of {len(MATRIX)} kinds |"
    yield from verdict.lines()


if __name__ == "__main__":
    sys.exit(main())
