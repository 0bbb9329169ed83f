"""The choice of a model on the website, where there is one."""

from playwright.sync_api import Page, expect

from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.queue import catalog, workers
from tests.integration.test_models import FLUX


def test_a_model_brings_its_own_sizes_steps_and_fields(museum: str, quiet: Page) -> None:
    quiet.goto(museum)
    expect(quiet.locator("#model")).to_have_count(0)
    with transaction() as session:
        catalog.report(session, FLUX)
        workers.report_alive(session, "there:1", ChunkKind.RENDER, FLUX.name)
    quiet.reload()
    quiet.get_by_text("Settings").click()
    expect(quiet.locator("#size")).to_have_value("128x128")
    quiet.select_option("#model", "flux")
    expect(quiet.locator("#model-hint")).to_have_text("Pictures of anything.")
    expect(quiet.locator("#size")).to_have_value("1024x1024")
    expect(quiet.locator("#steps")).to_have_attribute("placeholder", "4")
    for without_effect in ("#scheduler", "#guidance", "#negative_prompt"):
        expect(quiet.locator(without_effect)).to_be_hidden()
    quiet.reload()  # the draft outlives it
    expect(quiet.locator("#model")).to_have_value("flux")
    expect(quiet.locator("#size")).to_have_value("1024x1024")
    quiet.get_by_role("button", name="Make the walk").click()
    quiet.wait_for_url("**/walks/*")
    with transaction() as session:
        [walk] = session.query(Walk).all()
        assert (walk.model, walk.spec.width, walk.spec.steps) == ("flux", 1024, 4)


def test_a_remix_keeps_a_size_that_the_form_does_not_list(museum: str, quiet: Page) -> None:
    with transaction() as session:
        catalog.report(session, FLUX)
        workers.report_alive(session, "there:1", ChunkKind.RENDER, FLUX.name)
    made = quiet.request.post(
        f"{museum}/v1/walks", data={"prompts": ["a", "b"], "model": "flux", "width": 640, "height": 512}
    )
    quiet.goto(f"{museum}/?from={made.json()['id']}")
    expect(quiet.locator("#model")).to_have_value("flux")
    expect(quiet.locator("#size")).to_have_value("640x512")
