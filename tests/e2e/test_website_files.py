"""The form takes the settings of a file that is chosen or dropped."""

import base64
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


def test_a_file_of_others_is_refused_by_a_sentence(museum: str, quiet: Page, tmp_path: Path) -> None:
    (tmp_path / "cat.gif").write_bytes(b"GIF89a")
    quiet.goto(museum)
    quiet.set_input_files("#like", tmp_path / "cat.gif")
    expect(quiet.locator("#form-error")).to_have_text(
        "cat.gif carries no settings of a walk. Choose a file that was made here."
    )
