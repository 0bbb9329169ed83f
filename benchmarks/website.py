"""Loading and scrolling of the website in Chromium: `python -m benchmarks.website`."""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, sync_playwright

from benchmarks import quality
from benchmarks.render import CORES
from momalisa import settings
from momalisa.domain.spec import WalkSpec
from momalisa.local.processes import Child, free_port
from momalisa.local.stack import LocalStack
from tests.chromium import launch_options
from tests.finished_walks import insert_finished_walks, leave_unassembled, make_finished_walk

SCREEN: Any = {"width": 1280, "height": 800}

READY = """
const usable = ".naming:has(stop-list[data-ready]) ~ .row > #frames-line:not([hidden])";
globalThis.ready = new Promise((done) => {
    new MutationObserver((_, observer) => {
        if (!document.querySelector(usable)) return;
        observer.disconnect();
        done(performance.now());
    }).observe(document, { subtree: true, childList: true, attributes: true });
});
globalThis.painted = new Promise((done) => {
    new PerformanceObserver((list) => {
        const [first] = list.getEntriesByName("first-contentful-paint");
        if (first) done(first.startTime);
    }).observe({ type: "paint", buffered: true });
});
globalThis.tasks = 0;
new PerformanceObserver((list) => (globalThis.tasks += list.getEntries().length))
    .observe({ type: "longtask", buffered: true });
"""
"""Records when the form's script has run: then every control works."""

SCRUB = """() => new Promise((done) => {
    const scrubber = document.querySelector(".scrubber");
    const gaps = [], work = [];
    let step = 0, last;
    requestAnimationFrame(function move(now) {
        if (last) gaps.push(now - last);
        last = now;
        if (step > 480) return done([gaps, work]);
        const along = step <= 240 ? step / 240 : 2 - step / 240;
        scrubber.value = along * scrubber.max;
        const begun = performance.now();
        scrubber.dispatchEvent(new Event("input"));
        work.push(performance.now() - begun);
        step += 1;
        requestAnimationFrame(move);
    });
})"""
"""Moves the scrubber over the whole walk and back, each in 240 pictures of the screen: four seconds."""

LOAD_MORE = """async () => {
    const wall = document.querySelector(".wall"), times = [];
    const grown = (done) => {
        new MutationObserver((_, seen) => (seen.disconnect(), done())).observe(wall, { childList: true });
    };
    while (wall.children.length < 480) {
        const begun = performance.now();
        document.querySelector(".more").click();
        await new Promise(grown);
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        times.push(performance.now() - begun);
    }
    return times;
}"""
"""Clicks "Load more" until the wall is full; returns the milliseconds from each click until the paint."""

SCROLL = """() => new Promise((done) => {
    const gaps = [];
    let step = 0, last;
    scrollTo(0, document.documentElement.scrollHeight / 2);
    requestAnimationFrame(function move(now) {
        if (last) gaps.push(now - last);
        last = now;
        if ((step += 1) > 240) return done(gaps);
        scrollBy(0, 100);
        requestAnimationFrame(move);
    });
})"""


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=25, help="visits of the first page")
    parser.add_argument("--walks", type=int, default=10_000, help="walks in the gallery")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="momalisa-bench-") as folder, museum(Path(folder)) as url:
        walks = {
            (240, 128): make_finished_walk(_spec(240, 128), leave_unassembled),
            (240, 512): make_finished_walk(_spec(240, 512), leave_unassembled),
            (960, 128): make_finished_walk(_spec(960, 128)),
        }
        insert_finished_walks(_spec(240, 128), given.walks)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(**launch_options())
            lines = [*head(browser)]
            lines += first_page(browser, url, given.runs)
            for (frames, side), walk_id in walks.items():
                lines += scrubbing(browser, f"{url}/walks/{walk_id}", frames, side)
            lines += gallery(browser, url)
            browser.close()
    quality.write("bench-website", lines)


@contextmanager
def museum(folder: Path) -> Iterator[str]:
    """Run the website without workers, with the settings of this process, and yield its URL."""
    system = LocalStack(folder)
    port = free_port()
    api = Child("api", [sys.executable, "-m", "api"], folder / "api.log")
    try:
        system.start_services()
        settings.override(**system.variables, PORT=str(port), SECRET_KEYS="s" * 32)
        api.start()
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/readyz", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield url
    finally:
        api.signal_stop()
        api.wait_stopped(time.monotonic() + 15)
        system.stop()


def head(browser: Browser) -> Iterator[str]:
    """Return a line on the software, and on other load of the machine."""
    busy = os.getloadavg()[1]
    yield (
        f"`make bench-website`: Chromium {browser.version} without a GPU, and the API, on {CORES} cores, for which "
        f"{busy:.1f} processes had been waiting or running in the five minutes before."
    )
    yield ""
    yield "| what | median | 95 % | most |"
    yield "|---|---|---|---|"


def first_page(browser: Browser, url: str, runs: int) -> Iterator[str]:
    """Measure the first page, from the start of the navigation until the form can be used."""
    times: dict[str, list[float]] = {"nothing cached": [], "seen before": []}
    painted, tasks = [], []
    for run in range(runs + 1):
        context = browser.new_context(viewport=SCREEN)
        context.add_init_script(READY)
        for name, found in times.items():
            page = context.new_page()
            page.goto(url)
            ready, first_paint, long = page.evaluate("async () => [await ready, await painted, tasks]")
            if run:  # the first one warms up the server
                found.append(ready)
                if name == "nothing cached":
                    painted.append(first_paint)
                    tasks.append(long)
            page.close()
        context.close()
    for name, found in times.items():
        yield row(f"first page, {name}: its form can be used after, ms", found)
    yield row("first page, nothing cached: first paint after, ms", painted)
    yield row("first page, nothing cached: tasks of over 50 ms", tasks)


def scrubbing(browser: Browser, address: str, frames: int, side: int) -> Iterator[str]:
    """Measure scrubbing of a walk from end to end and back.

    All frames can be shown once they are loaded, or once there is a film: of 960 frames only some are kept.
    """
    name = f"{frames} frames of {side}²"
    page = browser.new_page(viewport=SCREEN, reduced_motion="reduce")
    page.goto(address)
    page.wait_for_selector(f"frame-player[data-frames='{frames}']")
    page.evaluate(SCRUB)  # the first one warms up the browser's compiler
    gaps, work = page.evaluate(SCRUB)
    yield row(f"scrubbing {name}: between two pictures of the screen, ms", gaps)
    yield row(f"scrubbing {name}: our script for one of them, ms", work)
    page.close()


def gallery(browser: Browser, url: str) -> Iterator[str]:
    """Measure the gallery: the time of each page in the server, and a wall that is filled and scrolled."""
    times: list[float] = []
    onward: str | None = "/gallery"
    with httpx.Client(base_url=url, trust_env=False) as visitor:
        while onward:
            began = time.perf_counter()
            html = visitor.get(onward).raise_for_status().text
            times.append(1000 * (time.perf_counter() - began))
            found = re.search(r'class="more" href="([^"]*)"', html)
            onward = unescape(found[1]) if found else None
    yield row(f"each of the {len(times)} pages of the gallery, by the server: ms", times)
    yield row("the last 20 of them: ms", times[-20:])
    page = browser.new_page(viewport=SCREEN)
    page.goto(f"{url}/gallery")
    more = page.evaluate(LOAD_MORE)
    yield row("“Load more”, from the click until it is painted, the first 5: ms", more[:5])
    yield row("the last 5, to 480 walks: ms", more[-5:])
    page.evaluate(SCROLL)
    yield row("scrolling through 480 walks: between two pictures of the screen, ms", page.evaluate(SCROLL))
    page.close()


def row(name: str, values: Sequence[float]) -> str:
    """Return a line of the table."""
    ordered = sorted(values)
    figures = (statistics.median(ordered), ordered[round(0.95 * (len(ordered) - 1))], ordered[-1])
    return f"| {name} | {' | '.join(f'{figure:.1f}' for figure in figures)} |"


def _spec(frames: int, side: int) -> WalkSpec:
    return WalkSpec(
        prompts=("a giraffe", "a battleship"),
        frames=frames,
        seed=side,
        negative_prompt="",
        steps=20,
        guidance=4,
        width=side,
        height=side,
        fps=12,
    )


if __name__ == "__main__":
    main()
