"""Pages on a phone while their fonts and scripts are still on the way."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route

from benchmarks.page_loads import OBSERVE, PHONE
from momalisa.domain.spec import WalkSpec
from tests.conftest import until
from tests.finished_walks import make_finished_walk

TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"


@pytest.fixture
def browser_context_args(browser_context_args: dict[str, object]) -> dict[str, object]:
    return {**browser_context_args, **PHONE}


def test_hardly_anything_moves_when_fonts_and_scripts_arrive_late(
    museum: str, quiet: Page, spec: Callable[..., WalkSpec]
) -> None:
    make_finished_walk(spec(frames=4))
    quiet.add_init_script(OBSERVE)
    late: list[Route] = []

    def hold(route: Route) -> None:
        late.append(route)

    quiet.route("**/static/fonts/*", hold)
    quiet.route("**/static/exhibition.js", hold)
    for path in ("/", "/gallery", "/exhibition", "/about"):
        quiet.goto(f"{museum}{path}", wait_until="commit")
        until(lambda: quiet.evaluate("painted > 0"))
        while late:
            late.pop().continue_()
        quiet.wait_for_load_state()
        quiet.evaluate("document.fonts.ready")
        quiet.evaluate(TWO_FRAMES)  # a shift is noted after the frame in which it is seen
        assert quiet.evaluate("shifted") < 0.02, path
