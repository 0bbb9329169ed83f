"""The form takes the settings of a file that is chosen or dropped."""

import base64
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from momalisa.db.models import Frame, Walk
from momalisa.db.session import transaction
from tests.carrying_files import PINS, SPEC, WRITERS

DROP = """(form, [name, data]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob(data), (each) => each.charCodeAt())], name));
  form.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
}"""


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_of_a_walk_makes_it_again(museum: str, quiet: Page, tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    quiet.goto(museum)
    if name.endswith(".gif"):
        data = base64.b64encode((tmp_path / name).read_bytes()).decode()
        quiet.locator("#form").evaluate(DROP, [name, data])
    else:
        quiet.set_input_files("#like", tmp_path / name)
    expect(quiet.locator("#seed")).to_have_value(str(SPEC.seed))
    expect(quiet.locator("#size")).to_have_value("96x64")
    expect(quiet.locator("#frames")).to_have_value("40")
    quiet.get_by_role("button", name="Make the walk").click()
    quiet.wait_for_url("**/walks/*")
    with transaction() as session:
        [walk] = session.query(Walk).all()
        assert walk.spec.model_copy(update={"model": ""}) == SPEC
        assert sorted(frame.position for frame in session.query(Frame)) == PINS.positions
        assert walk.batch_size == 40


def test_a_file_is_changed_in_the_form(museum: str, quiet: Page, tmp_path: Path) -> None:
    WRITERS["walk.json"](tmp_path / "walk.json")
    quiet.goto(museum)
    quiet.set_input_files("#like", tmp_path / "walk.json")
    quiet.locator("#frames").fill("12")
    quiet.get_by_role("button", name="Make the walk").click()
    quiet.wait_for_url("**/walks/*")
    with transaction() as session:
        [walk] = session.query(Walk).all()
        assert (walk.spec.frames, walk.spec.seeds, walk.batch_size) == (12, SPEC.seeds, 8)


def test_a_remix_keeps_what_the_form_does_not_show(museum: str, quiet: Page) -> None:
    order = {"prompts": ["a", "b"], "seeds": [7, 8], "negative_prompts": ["red", ""], "leg_frames": [5], "steps": 3}
    source = quiet.request.post(f"{museum}/v1/walks", data=order).json()["id"]
    for field, value, lists in (
        ("fps", "9", ((7, 8), ("red", ""), (5,))),
        ("seed", "9", (None, ("red", ""), (5,))),
        ("frames", "9", ((7, 8), ("red", ""), None)),
    ):
        quiet.goto(f"{museum}/?from={source}")
        if field != "frames":
            quiet.locator("summary").click()
        quiet.locator(f"#{field}").fill(value)
        quiet.get_by_role("button", name="Make the walk").click()
        quiet.wait_for_url("**/walks/*")
        with transaction() as session:
            walk = session.get_one(Walk, quiet.url.rpartition("/")[2])
            spec = walk.spec
        assert (str(getattr(spec, field)), str(walk.from_walk)) == (value, source)
        assert (spec.seeds, spec.negative_prompts, spec.leg_frames) == lists


def test_a_file_replaces_the_source_of_a_remix_and_outlives_a_reload(
    museum: str, quiet: Page, tmp_path: Path
) -> None:
    order = {"prompts": ["a", "b"], "seed_to": 8, "leg_frames": [5], "steps": 3}
    source = quiet.request.post(f"{museum}/v1/walks", data=order).json()["id"]
    saved = {"prompts": ["a", "b"], "frames": 4, "seed": 7, "weights": [1, 2], "negative_prompts": ["red", ""]}
    (tmp_path / "walk.json").write_text(json.dumps(saved))
    quiet.goto(f"{museum}/?from={source}")
    expect(quiet.get_by_role("heading", name="Take this walk another way.")).to_be_visible()
    quiet.set_input_files("#like", tmp_path / "walk.json")
    expect(quiet.locator("#frames")).to_have_value("4")
    expect(quiet.get_by_role("heading", name="Name two artworks")).to_be_visible()
    expect(quiet).to_have_title("MoMALisa")
    quiet.reload()
    expect(quiet.locator("#frames")).to_have_value("4")
    quiet.get_by_role("button", name="Make the walk").click()
    quiet.wait_for_url("**/walks/*")
    with transaction() as session:
        walk = session.get_one(Walk, quiet.url.rpartition("/")[2])
        assert (walk.from_walk, walk.spec.seed_to, walk.spec.leg_frames) == (None, None, None)
        assert (walk.spec.weights, walk.spec.negative_prompts) == ((1, 2), ("red", ""))


def test_a_file_of_a_model_that_is_not_here_is_made_with_the_one_that_is(
    museum: str, quiet: Page, tmp_path: Path
) -> None:
    WRITERS["walk.json"](tmp_path / "walk.json")
    saved = json.loads((tmp_path / "walk.json").read_text())
    (tmp_path / "walk.json").write_text(json.dumps({**saved, "model": "theirs"}))
    quiet.goto(museum)
    quiet.set_input_files("#like", tmp_path / "walk.json")
    expect(quiet.locator("#form-error")).to_have_text(
        "The model of walk.json, theirs, is not here; this walk will use the one in the form."
    )
    quiet.get_by_role("button", name="Make the walk").click()
    quiet.wait_for_url("**/walks/*")
    with transaction() as session:
        [walk] = session.query(Walk).all()
        assert (walk.spec.prompts, walk.spec.seeds, walk.model) == (SPEC.prompts, SPEC.seeds, "momalisa-mini")


def test_a_file_of_others_is_refused_by_a_sentence(museum: str, quiet: Page, tmp_path: Path) -> None:
    (tmp_path / "cat.gif").write_bytes(b"GIF89a")
    quiet.goto(museum)
    quiet.set_input_files("#like", tmp_path / "cat.gif")
    expect(quiet.locator("#form-error")).to_have_text(
        "There are no settings of a whole walk in cat.gif. Choose a file of a walk that was made here."
    )
