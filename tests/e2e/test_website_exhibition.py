"""Pictures on screens of any shape: the full screen of a walk, and the exhibition."""

import re
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from playwright.sync_api import Locator, Page, expect

from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.walks import service
from tests.e2e.conftest import expect_axe_finds_nothing
from tests.finished_walks import OWNER, insert_finished_walks, make_finished_walk

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


@pytest.mark.parametrize(("width", "height", "stops"), [(64, 64, 2), (96, 64, 2), (64, 96, 4)])
def test_full_screen_shows_the_whole_picture_its_stops_and_its_exit_on_any_screen(
    museum: str, quiet: Page, spec: Spec, width: int, height: int, stops: int
) -> None:
    prompts = ("a giraffe in the grass", "a ship", "a fox", "an owl")[:stops]
    loop = "closed" if stops == 4 else "none"
    walk_id = make_finished_walk(spec(prompts=prompts, width=width, height=height, loop=loop))
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
        if columns == SCREENS[0][0] and stops == 2:  # there is room for each name
            names = player.locator(".stop-names span")
            assert names.evaluate_all("(all) => all.every((name) => name.scrollWidth <= name.clientWidth)")
        if stops == 4:  # there is room for their numbers, with a legend
            expect(player.locator(".stop-names li")).to_have_text(["1", "2", "3", "4", "1"])
            legend = player.locator(".stop-legend li")
            expect(legend).to_have_text(["1 a giraffe in the grass", "2 a ship", "3 a fox", "4 an owl"])
            expect_inside_the_screen(*legend.all())
        expect_inside_the_screen(leave, player.get_by_role("slider"), player.locator(".play"))
    leave.click()
    expect(player.get_by_role("button", name="Full screen", exact=True)).to_be_visible()


def test_a_class_exhibits_ten_walks(museum: str, quiet: Page, spec: Spec) -> None:
    insert_finished_walks(spec(prompts=("a quilt", "a lamp")), 12, posters=3)
    quiet.context.grant_permissions(["clipboard-read", "clipboard-write"])
    quiet.clock.install()
    quiet.goto(f"{museum}/gallery?q=quilt")
    quiet.get_by_role("link", name="Choose walks").click()
    for piece in quiet.locator(".piece label").all()[-9:]:
        piece.click()
    quiet.get_by_label("Only walks with this word").fill("a lamp")  # the choice stays through a search
    quiet.keyboard.press("Enter")
    expect(quiet.get_by_role("status").filter(has_text="9 walks chosen")).to_be_visible()
    quiet.get_by_role("checkbox").first.check()
    expect(quiet.get_by_role("status").filter(has_text="10 walks chosen")).to_be_visible()
    expect_axe_finds_nothing(quiet)
    quiet.get_by_role("button", name="Copy link").click()
    expect(quiet.get_by_role("button", name="Link copied")).to_be_visible()
    expect(quiet.locator("#announcer")).to_have_text("The link to this exhibition is copied.")
    quiet.clock.fast_forward(4000)
    expect(quiet.get_by_role("button", name="Copy link")).to_be_visible()
    link = quiet.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{museum}/exhibition?walks=")
    quiet.get_by_role("button", name="Start the exhibition").click()
    expect(quiet).to_have_url(link)

    here = quiet.locator(".exhibit.here")
    ids = link.partition("=")[2].split(",")
    assert len(set(ids)) == 10
    assert quiet.locator(".exhibit").evaluate_all("all => all.map(({ id }) => id)") == ids
    expect_axe_finds_nothing(quiet)
    expect(quiet.get_by_role("button", name="Play", exact=True)).to_be_visible()  # motion is reduced
    keys = (("ArrowRight", 2), ("PageDown", 3), ("ArrowLeft", 2), ("End", 10), ("PageDown", 1), ("PageUp", 10))
    for key, number in keys:
        quiet.keyboard.press(key)
        expect(here.locator(".number")).to_have_text(f"{number} of 10")
    expect(quiet.locator("#announcer")).to_contain_text("10 of 10")
    films = "films => films.filter((film) => film.readyState || film.preload !== 'none').length"
    assert quiet.locator("video").evaluate_all(films) == 2  # the one in view, and the next
    quiet.reload()  # the address leads to the same place
    expect(here).to_have_attribute("id", ids[9])
    quiet.get_by_role("button", name="Next walk").click()
    expect(here.locator(".number")).to_have_text("1 of 10")
    quiet.keyboard.press("Escape")
    expect(quiet).to_have_url(f"{museum}/gallery")


def test_a_wall_plays_by_itself_on_a_screen_of_any_shape(museum: str, quiet: Page, spec: Spec) -> None:
    insert_finished_walks(spec(prompts=("a quilt", "a lamp")), 12, posters=3)
    quiet.clock.install()
    quiet.goto(f"{museum}/gallery?q=lamp")
    quiet.get_by_role("link", name="Play this wall").click()
    here = quiet.locator(".exhibit.here")
    expect(here.locator(".number")).to_have_text("1 of 13")
    leave = quiet.get_by_role("link", name="Leave")
    quiet.keyboard.press("f")
    expect(quiet.get_by_role("button", name="Leave full screen")).to_be_visible()
    for columns, rows in SCREENS:
        quiet.set_viewport_size({"width": columns, "height": rows})
        expect_a_large_uncut_picture(here.locator("video"), 1)
        expect_inside_the_screen(leave, here.locator(".title"), quiet.get_by_role("button", name="Next walk"))
        keys, buttons = here.locator(".keys").bounding_box(), quiet.locator(".guide").bounding_box()
        assert keys
        assert buttons
        assert keys["y"] + keys["height"] <= buttons["y"] + 1
    letters = here.locator(".title").evaluate("(title) => parseFloat(getComputedStyle(title).fontSize)")
    assert letters > 0.045 * 1080  # to be read from the last row
    quiet.keyboard.press("F")  # as with Caps Lock
    expect(quiet.get_by_role("button", name="Full screen", exact=True)).to_be_visible()

    quiet.mouse.move(200, 200)
    quiet.clock.fast_forward(3000)
    guide = quiet.locator(".guide")
    expect(guide).to_have_css("opacity", "0")
    quiet.mouse.move(210, 200)
    expect(guide).to_have_css("opacity", "1")
    expect(here.locator(".number")).to_have_text("1 of 13")
    quiet.clock.fast_forward(12_000)  # the next walk follows at the end of a round
    expect(here.locator(".number")).to_have_text("2 of 13")
    quiet.keyboard.press(" ")
    expect(quiet.get_by_role("button", name="Play", exact=True)).to_be_visible()
    assert here.locator("video").evaluate("(film) => film.paused")
    leave.click()
    expect(quiet).to_have_url(f"{museum}/gallery?q=lamp")


def test_an_exhibition_says_what_is_not_on_view_and_is_a_page_of_films_without_scripts(
    museum: str, phone: Page, scriptless: Page, spec: Spec
) -> None:
    names = [str(make_finished_walk(spec(prompts=(name, "a room")))) for name in ("a door", "a wall", "a secret")]
    with transaction() as session:
        service.set_public(session, UUID(names[2]), False, owner=OWNER)
    address = f"{museum}/exhibition?walks={names[1]},nothing,{names[0]},{names[2]},{uuid4()}"
    phone.emulate_media(reduced_motion="reduce")
    phone.clock.install(time=0)
    second = re.compile(f"{names[0]}/.*mp4$")
    phone.route(second, lambda route: route.abort())
    phone.route("**/exhibition.js", lambda route: route.abort())
    phone.goto(address)
    expect(phone.get_by_text("3 walks are not on view")).to_be_visible()  # soon, though no script arrives
    phone.unroute("**/exhibition.js")
    for page in (scriptless, phone):
        page.goto(address)
        expect(page.get_by_text("3 walks are not on view")).to_be_visible()
    films = scriptless.locator("video[controls]")
    expect(films).to_have_count(2)
    expect(films.first).to_be_visible()
    scriptless.goto(f"{museum}/gallery?choose=true")
    scriptless.get_by_role("checkbox").first.check()
    scriptless.get_by_role("button", name="Start the exhibition").click()
    expect(films).to_have_count(1)
    scriptless.goto(f"{museum}/gallery?q=wall")
    scriptless.get_by_role("link", name="Play this wall").click()
    expect(scriptless).to_have_url(f"{museum}/exhibition?q=wall")
    expect(films).to_have_count(1)

    expect(phone.locator(".exhibit.here .keys")).to_be_hidden()  # there is no keyboard, it seems
    phone.clock.pause_at(600)
    number = phone.locator(".exhibit.here .number")
    expect(number).to_have_text("1 of 2")
    phone.wait_for_function("() => document.querySelectorAll('video')[1].error")
    phone.unroute(second)
    touch = phone.context.new_cdp_session(phone)
    for kind, x in (("touchStart", 300), ("touchMove", 200), ("touchMove", 100), ("touchEnd", None)):
        points = [] if x is None else [{"x": x, "y": 200}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(number).to_have_text("2 of 2")
    expect(phone.get_by_text("3 walks are not on view")).to_have_count(0)
    phone.wait_for_function("() => document.querySelectorAll('video')[1].readyState >= 2")  # it is tried again
    left: list[str] = []
    phone.on("request", lambda request: left.append(request.url) if request.is_navigation_request() else None)
    leave = phone.get_by_role("link", name="Leave")
    phone.clock.fast_forward(3000)
    expect(phone.locator(".guide")).to_have_css("opacity", "0")
    leave.tap()  # shows the controls; a finger presses nothing that it does not see
    expect(phone.locator(".guide")).to_have_css("opacity", "1")
    phone.get_by_role("button", name="Previous walk").press("Enter")
    expect(number).to_have_text("1 of 2")
    assert left == []
    leave.tap()
    expect(phone).to_have_url(f"{museum}/gallery")
