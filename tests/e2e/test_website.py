"""Making and watching walks on the website, with the whole system."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT, environment
from tests.conftest import until, wait_for_workers
from tests.e2e.conftest import ADDRESS, DONE, expect_axe_finds_nothing, expect_stops, name_stops, submit

Finished = Callable[..., dict[str, Any]]
MODULES = environment(PYTHONPATH=str(ROOT))


def test_a_visitor_makes_watches_and_saves_a_walk(website: Page, system: LocalStack, tmp_path: Path) -> None:
    wait_for_workers(system)
    submit(website, "a giraffe", "a battleship", 24)
    player = website.locator("frame-player")
    expect(player).to_have_attribute("data-frames", re.compile("^[1-9]"), timeout=DONE)
    expect(website.locator(".on-mat")).to_be_visible()  # it is played before it is done
    expect(website.get_by_role("link", name=re.compile("GIF"))).to_be_visible(timeout=DONE)

    expect(player).to_have_attribute("data-frames", "24", timeout=DONE)
    shown = player.get_attribute("data-rank")
    expect(player).not_to_have_attribute("data-rank", shown or "")  # it plays
    player.get_by_role("button", name="Pause").click()
    player.get_by_role("slider").press("Home")
    expect(player).to_have_attribute("data-rank", "0")
    website.locator("h1").click()
    website.keyboard.press("ArrowRight")  # on the whole page
    expect(player).to_have_attribute("data-rank", "1")
    expect(website.locator(".keys")).to_contain_text("Space plays and pauses")

    for kind, decoder in (("GIF", "GIF"), ("MP4", None)):
        with website.expect_download() as download:
            website.get_by_role("link", name=re.compile(kind)).click()
        name = rf"a-giraffe-to-a-battleship-[0-9a-f]{{4}}\.{kind.lower()}"
        assert re.fullmatch(name, download.value.suggested_filename)
        path = tmp_path / kind
        download.value.save_as(path)
        assert path.stat().st_size > 1000
        if decoder:
            with Image.open(path) as gif:
                assert (gif.format, getattr(gif, "n_frames", 1)) == (decoder, 24)


def test_a_designer_downloads_large_files(website: Page, system: LocalStack) -> None:
    wait_for_workers(system)
    website.locator("#settings-fields summary").click()
    website.get_by_label("Also make large files").check()
    submit(website, "a giraffe", "a battleship", 3)
    for words, kind in (("Large film", "mp4"), ("Large middle frame", "png")):
        link = website.get_by_role("link", name=re.compile(words))
        expect(link).to_have_accessible_name(re.compile("1080 pixels high, enlarged from 128"), timeout=DONE)
        with website.expect_download() as download:
            link.click()
        name = rf"a-giraffe-to-a-battleship-[0-9a-f]{{4}}-enlarged-from-128\.{kind}"
        assert re.fullmatch(name, download.value.suggested_filename)


def test_stops_are_added_moved_and_removed_by_keyboard(website: Page) -> None:
    name_stops(website, "a fox", "a boat")
    website.get_by_role("button", name="Add a stop").press("Enter")
    expect(website.locator("#stop-1")).to_be_focused()
    website.keyboard.type("a rose")
    website.locator("[data-grip='1']").press("ArrowUp")
    expect_stops(website, "a rose", "a fox", "a boat")
    expect(website.locator("[data-grip='0']")).to_be_focused()
    expect(website.get_by_role("status").first).to_have_text("a rose is now stop 1 of 3.")
    website.locator("[data-grip='0']").press("End")
    expect_stops(website, "a fox", "a boat", "a rose")
    website.get_by_role("button", name="Remove a boat").press("Enter")
    expect_stops(website, "a fox", "a rose")
    website.get_by_role("button", name="Swap").press("Enter")
    expect_stops(website, "a rose", "a fox")


def test_stops_are_moved_by_dragging_their_dots(website: Page) -> None:
    website.get_by_role("button", name="Add a stop").click()
    name_stops(website, "a fox", "a rose", "a boat")
    start = website.locator("[data-grip='0']").bounding_box()
    end = website.locator("[data-grip='2']").bounding_box()
    assert start
    assert end
    website.mouse.move(start["x"] + 12, start["y"] + 12)
    website.mouse.down()
    website.mouse.move(end["x"] + 12, end["y"] + 12, steps=8)
    website.mouse.up()
    expect_stops(website, "a rose", "a boat", "a fox")


def test_at_most_ten_stops_can_be_added(website: Page) -> None:
    for _ in range(8):
        website.get_by_role("button", name="Add a stop").click()
    expect(website.locator("stop-list input")).to_have_count(10)
    expect(website.get_by_role("button", name="Add a stop")).to_be_hidden()


def test_the_form_survives_a_reload(website: Page) -> None:
    name_stops(website, "a comet", "a kettle")
    website.locator("#frames").fill("77")
    website.locator("summary").click()
    website.locator("#seed").fill("12")
    website.get_by_label("Hang it in the gallery").uncheck()
    website.reload()
    expect_stops(website, "a comet", "a kettle")
    expect(website.locator("#frames")).to_have_value("77")
    website.locator("summary").click()
    expect(website.locator("#seed")).to_have_value("12")
    expect(website.get_by_label("Hang it in the gallery")).not_to_be_checked()


def test_control_and_enter_send_the_form_with_its_settings(website: Page) -> None:
    name_stops(website, "a fox", "a boat")
    website.locator("#frames").fill("2")
    website.locator("summary").click()
    website.locator("#seed").fill("4242")
    website.locator("#steps").fill("1")
    website.locator("#seed").press("Control+Enter")
    website.wait_for_url(ADDRESS)
    expect(website.locator(".facts")).to_contain_text("4242")


def test_an_error_is_shown_beside_its_field_and_the_text_is_kept(website: Page) -> None:
    name_stops(website, "a \u202ecat", "a castle")
    website.get_by_role("button", name="Make the walk").click()
    expect(website.locator("#stop-0-error")).to_contain_text("U+202E at character 3")
    expect(website.locator("#stop-0")).to_be_focused()
    expect(website.locator("#stop-1")).to_have_value("a castle")


def test_a_walk_is_looped_slowed_and_scrubbed(website: Page, finished: Finished) -> None:
    walk = finished("a fox", "a rose", "a boat", frames=5)
    website.goto(walk["urls"]["web"])
    player = website.locator("frame-player")
    expect(player).to_have_attribute("data-frames", "5")
    player.get_by_role("button", name="Pause").click()
    expect(player.locator(".stop-mark")).to_have_count(3)
    player.get_by_role("slider").press("End")
    expect(player).to_have_attribute("data-rank", "4")
    expect(player.get_by_role("slider")).to_have_attribute("aria-valuetext", "frame 5 of 5, a boat")
    player.get_by_label("Speed").select_option("2")
    player.get_by_label("Loop").select_option("once")
    player.get_by_role("button", name="Play").click()
    expect(player.get_by_role("button", name="Play")).to_be_visible()  # it ends by itself
    expect(player).to_have_attribute("data-rank", "4")


def test_the_picture_can_fill_the_screen(website: Page, finished: Finished) -> None:
    website.goto(finished("a fox", "a boat")["urls"]["web"])
    website.get_by_role("button", name="Full screen").click()
    expect(website.get_by_role("button", name="Leave full screen")).to_be_visible()
    assert website.evaluate("document.fullscreenElement.localName") == "frame-player"
    website.get_by_role("button", name="Leave full screen").click()
    expect(website.get_by_role("button", name="Full screen", exact=True)).to_be_visible()


def test_a_remix_starts_from_the_prompts_and_settings_of_a_walk(website: Page, finished: Finished) -> None:
    name_stops(website, "my own", "idea")
    walk = finished("a fox", "a rose", "a boat", frames=6, seed=99, negative_prompt="mist")
    website.goto(walk["urls"]["web"])
    website.get_by_role("link", name="Remix").click()
    expect_stops(website, "a fox", "a rose", "a boat")
    shown = website.get_by_role("region", name="The walk to remix")
    expect(shown).to_contain_text("Remix of a fox → a rose → a boat")
    expect(shown.locator("video")).to_have_js_property("paused", False)
    website.locator("#stop-1").fill("a comet")
    expect(website.get_by_role("region", name="The plan of your walk")).to_contain_text("a comet")
    website.locator("#stop-1").fill("a rose")
    expect(shown).to_be_visible()
    expect(website.locator("#frames")).to_have_value("6")
    expect(website.locator("#seed")).to_have_value("99")
    expect(website.locator("#negative_prompt")).to_have_value("mist")
    website.get_by_role("navigation").get_by_role("link", name="Make").click()
    expect_stops(website, "my own", "idea")  # the draft is still there


def test_a_walk_goes_on_from_the_stop_in_view(website: Page, finished: Finished) -> None:
    website.goto(finished("a fox", "a rose", "a boat", frames=5, seed=99)["urls"]["web"])
    expect(website.get_by_role("link", name="Walk on from a boat")).to_be_visible()
    website.get_by_role("slider").press("Home")
    website.get_by_role("slider").press("ArrowRight")
    website.get_by_role("slider").press("ArrowRight")
    website.get_by_role("link", name="Walk on from a rose").click()
    expect_stops(website, "a rose", "")
    expect(website.locator("#seed")).to_have_value("99")
    website.locator("#stop-1").fill("a comet")
    website.reload()
    expect_stops(website, "a rose", "a comet")
    website.get_by_role("button", name="Make the walk").click()
    website.wait_for_url(ADDRESS)
    expect(website.get_by_role("link", name="a fox → a rose → a boat")).to_be_visible()  # what it came from


def test_a_refinement_is_the_same_walk_with_twice_the_frames(website: Page, finished: Finished) -> None:
    walk = finished("a fox", "a boat", frames=4, seed=5)
    website.goto(walk["urls"]["web"])
    website.get_by_role("button", name="Refine to 8 frames").click()
    website.wait_for_url(lambda url: bool(ADDRESS.search(url)) and walk["id"] not in url)
    expect(website.locator(".medium")).to_have_text("Latent diffusion, 8 frames")
    expect(website.locator(".facts")).to_contain_text("5")


def test_a_walk_is_copied_as_a_link_a_recipe_and_code_to_embed(
    website: Page, system: LocalStack, finished: Finished, tmp_path: Path
) -> None:
    website.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=system.url)
    website.clock.install()
    walk = finished("a fox's den", "a boat", seed=5, fps=7, negative_prompt="mist")
    website.goto(walk["urls"]["web"])
    copied: dict[str, str] = {}
    for name, done in (("Copy link", "Link"), ("Copy recipe", "Recipe"), ("Copy code", "Code")):
        if done == "Code":
            website.get_by_role("button", name="Embed").click()
            expect(website.get_by_label("Code to embed this walk")).to_be_focused()
        website.get_by_role("button", name=name).click()
        expect(website.get_by_role("button", name=f"{done} copied")).to_be_visible()
        copied[done] = website.evaluate("navigator.clipboard.readText()")
        website.clock.fast_forward(5000)
        expect(website.get_by_role("button", name=name)).to_be_visible()  # ready for the next time
    assert copied["Link"] == walk["urls"]["web"]
    assert f'<iframe src="{walk["urls"]["web"]}/embed"' in copied["Code"]

    command, *arguments = shlex.split(copied["Recipe"])
    assert command == "momalisa"
    run = [sys.executable, "-m", "momalisa", *arguments, "--url", system.url, "--json", "--out", "again.gif"]
    said = subprocess.run(run, cwd=tmp_path, env=MODULES, capture_output=True, text=True, check=True).stdout
    assert json.loads(said[said.index("{") :])["settings"] == walk["settings"]


def test_a_film_is_shared_where_that_is_possible_and_else_its_link(website: Page, finished: Finished) -> None:
    """Chromium for Linux has no share sheet, so this one only notes what it gets."""
    website.add_init_script("""
        navigator.share = async ({ files, url }) => { globalThis.shared = files?.[0].name ?? url; };
        navigator.canShare = () => !location.href.endsWith("#");
    """)
    address = finished("a fox", "a boat")["urls"]["web"]

    def expect_shared(fragment: str, shared: str) -> None:
        website.goto(address + fragment)
        website.reload()
        website.get_by_role("button", name="Share").click()
        website.wait_for_function("(shared) => globalThis.shared === shared", arg=shared)

    expect_shared("", "a-fox-to-a-boat.mp4")
    expect_shared("#", address)
    too_slow = re.compile("mp4$")
    website.route(too_slow, lambda route: None if route.request.resource_type == "fetch" else route.continue_())
    expect_shared("", address)


def test_only_the_owner_of_a_walk_can_remove_it(website: Page, finished: Finished) -> None:
    website.goto(finished("a fox", "a boat")["urls"]["web"])
    expect(website.get_by_role("link", name="Remix")).to_be_visible()
    expect(website.get_by_role("button", name="Remove")).to_have_count(0)

    website.get_by_role("link", name="Make").click()
    submit(website, "a fox", "a boat", 2)
    expect(website.get_by_role("link", name=re.compile("GIF"))).to_be_visible(timeout=DONE)
    address, gif = website.url, website.get_by_role("link", name=re.compile("GIF"))
    old = gif.get_attribute("href") or ""
    website.get_by_role("button", name="Embed").click()
    expect(website.get_by_label("Code to embed this walk")).to_be_visible()
    website.get_by_role("button", name="Remove").click()
    expect(website.get_by_role("button", name="Yes")).to_be_focused()
    expect_axe_finds_nothing(website)
    website.get_by_role("button", name="No").click()
    website.get_by_role("button", name="Make private").click()
    expect(website.get_by_role("button", name="Make public")).to_be_visible()
    expect(gif).not_to_have_attribute("href", old, timeout=60_000)  # the page looks again by itself
    until(lambda: httpx.get(old).status_code == 404)
    website.get_by_role("button", name="Remove").click()
    website.get_by_role("button", name="Yes").click()
    website.wait_for_url(re.compile("/gallery"))
    website.goto(address)
    expect(website.get_by_role("heading", name="No such walk")).to_be_visible()


def test_text_typed_before_the_scripts_load_is_kept(quiet: Page, system: LocalStack) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    quiet.route("**/static/make.js", hold)
    quiet.goto(system.url, wait_until="commit")
    quiet.locator("#stop-1").press_sequentially("a boat")
    quiet.locator("#stop-0").press_sequentially("a ox")
    quiet.keyboard.press("ArrowLeft")
    quiet.keyboard.press("ArrowLeft")
    held.pop().continue_()
    expect(quiet.locator("stop-list")).to_have_attribute("data-ready", "")
    quiet.keyboard.type("f")
    expect_stops(quiet, "a fox", "a boat")


def test_a_running_walk_can_be_canceled(website: Page) -> None:
    submit(website, "a castle", "a comet", 240)
    website.get_by_role("button", name="Cancel").click()
    website.get_by_role("button", name="No").click()
    expect(website.get_by_role("button", name="Cancel")).to_be_focused()
    website.get_by_role("button", name="Cancel").click()
    website.get_by_role("button", name="Yes").press("Enter")
    expect(website.get_by_text("This walk was canceled").first).to_be_visible()
    expect(website.get_by_role("link", name="Try again")).to_be_focused()  # "Yes" is gone


@pytest.mark.parametrize("reduced", [False, True])
def test_one_switch_stops_all_motion_and_is_remembered(website: Page, finished: Finished, reduced: bool) -> None:
    walk = finished("a fox", "a boat", frames=4)
    if reduced:
        website.emulate_media(reduced_motion="reduce")
    website.goto(walk["urls"]["web"])
    player = website.locator("frame-player")
    expect(player).to_have_attribute("data-frames", "4")
    if not reduced:
        website.get_by_role("button", name="Still").click()
    expect(player.get_by_role("button", name="Play")).to_be_visible()
    website.reload()
    expect(player).to_have_attribute("data-frames", "4")
    expect(player.get_by_role("button", name="Play")).to_be_visible()
