"""Pictures on screens of any shape: the full screen of a walk, and the exhibition."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from momalisa.domain.spec import WalkSpec
from tests.finished_walks import make_finished_walk

Spec = Callable[..., WalkSpec]

SCREENS = ((412, 800), (900, 1200), (844, 390), (1280, 1024), (1920, 1080))
"""Portrait and landscape, phone and projector."""

CONTRAST = """(color) => {
    const [one, other] = color.map((text) => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
        const pen = canvas.getContext("2d");
        pen.fillStyle = text;
        pen.fillRect(0, 0, 1, 1);
        const channels = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255);
        const [r, g, b] = channels.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    });
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}"""
"""The contrast of two colours, by WCAG 2."""


def expect_inside_the_screen(*parts: Locator) -> None:
    for part in parts:
        box = part.bounding_box()
        screen = part.page.viewport_size
        assert box
        assert screen
        assert box["x"] > -1, box
        assert box["y"] > -1, box
        assert box["x"] + box["width"] < screen["width"] + 1, (box, screen)
        assert box["y"] + box["height"] < screen["height"] + 1, (box, screen)


def expect_a_large_uncut_picture(picture: Locator, ratio: float) -> None:
    """Expect a picture in its own shape, nearly as large as the shorter side of the screen."""
    expect_inside_the_screen(picture)
    box, screen = picture.bounding_box(), picture.page.viewport_size
    assert box
    assert screen
    assert box["width"] / box["height"] == pytest.approx(ratio, rel=0.01)
    assert max(box["width"], box["height"]) >= 0.85 * min(screen["width"], screen["height"]), (box, screen)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64), (64, 96)])
def test_full_screen_shows_the_whole_picture_and_its_exit_on_any_screen(
    museum: str, quiet: Page, spec: Spec, width: int, height: int
) -> None:
    prompts = ("a giraffe in the grass", "a ship")
    walk_id = make_finished_walk(spec(prompts=prompts, width=width, height=height))
    quiet.emulate_media(reduced_motion="reduce", color_scheme="dark")
    quiet.goto(f"{museum}/walks/{walk_id}")
    player = quiet.locator("frame-player")
    expect(player).to_have_attribute("data-frames", "4")
    edge, wall = quiet.evaluate(
        """() => [getComputedStyle(document.querySelector(".frame")).boxShadow.match(/rgba?\\([^)]*\\)/)[0],
                  getComputedStyle(document.body).backgroundColor]"""
    )
    assert quiet.evaluate(CONTRAST, [edge, wall]) >= 3  # the frame is nearly as dark as the wall at night

    player.get_by_role("button", name="Full screen").click()
    leave = player.get_by_role("button", name="Leave full screen")
    expect(leave).to_be_visible()
    for columns, rows in SCREENS:
        quiet.set_viewport_size({"width": columns, "height": rows})
        player_box = player.bounding_box()
        assert player_box
        assert player_box["width"] == columns  # without a bar at its side
        expect_a_large_uncut_picture(player.locator(".work"), width / height)
        if columns == SCREENS[0][0]:  # there is room for each name
            names = player.locator(".stop-names span")
            assert names.evaluate_all("(all) => all.every((name) => name.scrollWidth <= name.clientWidth)")
        expect_inside_the_screen(leave, player.get_by_role("slider"), player.locator(".play"))
    leave.click()
    expect(player.get_by_role("button", name="Full screen", exact=True)).to_be_visible()
