"""What a phone loads for each page, and when it sees it: `python -m benchmarks.page_loads`."""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, sync_playwright

from benchmarks import quality
from benchmarks.render import CORES
from benchmarks.website import museum
from momalisa.domain.spec import WalkSpec
from tests.chromium import launch_options
from tests.finished_walks import insert_finished_walks, make_finished_walk

PHONE: Any = {
    "viewport": {"width": 390, "height": 664},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}

NETWORK = {"offline": False, "latency": 150, "downloadThroughput": 1_600_000 / 8, "uploadThroughput": 750_000 / 8}
CPU_SLOWDOWN = 4
"""The phone on a slow 4G network that Lighthouse simulates: milliseconds, bytes a second, times slower."""

WATCHED_SECONDS = 4
"""How long a page is watched after it has loaded."""

OBSERVE = """
globalThis.painted = 0, globalThis.shifted = 0;
new PerformanceObserver((list) => list.getEntries().forEach((entry) => (painted = entry.startTime)))
    .observe({ type: "largest-contentful-paint", buffered: true });
new PerformanceObserver((list) => list.getEntries().forEach((entry) => (shifted += entry.value)))
    .observe({ type: "layout-shift", buffered: true });
"""
"""Notes the largest contentful paint in milliseconds, and the sum of all layout shifts."""


class Visit(NamedTuple):
    """What one visit with an empty cache took."""

    painted: float
    """Milliseconds until the largest contentful paint."""
    shifted: float
    """Cumulative layout shift."""
    content: int
    """Bytes received without fonts, headers included."""
    fonts: int
    """Bytes of fonts."""
    requests: int


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page_loads", description=__doc__)
    parser.add_argument("--visits", type=int, default=5, help="visits of each page")
    visits = parser.parse_args().visits
    with tempfile.TemporaryDirectory(prefix="momalisa-bench-") as folder, museum(Path(folder)) as url:
        walk = f"/walks/{make_finished_walk(SPEC)}"
        insert_finished_walks(SPEC, 100)
        pages = {
            "home": "/",
            "gallery": "/gallery",
            "a walk": walk,
            "the walk in a frame": f"{walk}/embed",
            "exhibition": f"/exhibition?walks={walk.removeprefix('/walks/')}",
            "about": "/about",
            "the API": "/docs",
        }
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(**launch_options())
            table = list(_table(browser, {name: f"{url}{path}" for name, path in pages.items()}, visits))
            browser.close()
    print("\n".join(table))
    quality.write("bench-page-loads", table)


def _table(browser: Browser, pages: dict[str, str], visits: int) -> Iterator[str]:
    busy = os.getloadavg()[1]
    yield (
        f"`python -m benchmarks.page_loads`: Chromium {browser.version}, median of {visits} visits, on {CORES} "
        f"cores, for which {busy:.1f} processes had been waiting or running in the five minutes before."
    )
    yield ""
    yield "| page | LCP, ms | CLS, most | kB without fonts | kB of fonts | requests |"
    yield "|---|---|---|---|---|---|"
    for name, address in pages.items():
        seen = [visit for visit in (_visit(browser, address) for _ in range(visits)) if visit]
        if seen:
            painted, _, content, fonts, requests = map(statistics.median, zip(*seen, strict=True))
            shifted = f"{max(visit.shifted for visit in seen):.3f}"
            kilobytes = f"{content / 1000:.0f} | {fonts / 1000:.0f}"
            yield f"| {name} | {painted:.0f} | {shifted} | {kilobytes} | {requests:.0f} |"


def _visit(browser: Browser, address: str) -> Visit | None:
    """Load a page on the simulated phone; None if there is no such page."""
    context = browser.new_context(**PHONE)
    context.add_init_script(OBSERVE)
    page = context.new_page()
    session = context.new_cdp_session(page)
    kinds, received = dict[str, str](), dict[str, int]()

    def note(event: dict[str, Any]) -> None:
        known = received.get(event["requestId"], 0)
        # Data of a film that is still loading counts; the sum at the end includes headers.
        received[event["requestId"]] = max(known, event["encodedDataLength"])

    def add(event: dict[str, Any]) -> None:
        received[event["requestId"]] = received.get(event["requestId"], 0) + event["encodedDataLength"]

    session.on("Network.requestWillBeSent", lambda event: kinds.update({event["requestId"]: event.get("type", "")}))
    session.on("Network.dataReceived", add)
    session.on("Network.loadingFinished", note)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", NETWORK)
    session.send("Emulation.setCPUThrottlingRate", {"rate": CPU_SLOWDOWN})
    try:
        answer = page.goto(address)
        if answer is None or not answer.ok:
            return None
        page.wait_for_timeout(1000 * WATCHED_SECONDS)
        painted, shifted = page.evaluate("[painted, shifted]")
    finally:
        context.close()
    fonts = sum(size for request, size in received.items() if kinds.get(request) == "Font")
    return Visit(painted, shifted, sum(received.values()) - fonts, fonts, len(kinds))


SPEC = WalkSpec(
    prompts=("a giraffe", "a battleship"),
    frames=24,
    seed=7,
    negative_prompt="",
    steps=20,
    guidance=4,
    width=128,
    height=128,
    fps=12,
)


if __name__ == "__main__":
    main()
