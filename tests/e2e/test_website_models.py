"""The choice of a model on the website, where there is one."""

from playwright.sync_api import Page, expect

from momalisa.db.models import Walk
from momalisa.db.session import transaction
from tests.reported_models import FLUX, works


def test_a_model_brings_its_own_sizes_steps_and_fields(museum: str, quiet: Page) -> None:
    quiet.goto(museum)
    expect(quiet.locator("#model")).to_have_count(0)
    works(FLUX)
    quiet.reload()
    quiet.locator("summary").click()
    expect(quiet.locator("#size")).to_have_value("128x128")
    quiet.select_option("#model", "flux")
    expect(quiet.locator("#model-hint")).to_have_text("flux Pictures of anything.")
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
    works(FLUX)
    made = quiet.request.post(
        f"{museum}/v1/walks", data={"prompts": ["a", "b"], "model": "flux", "width": 640, "height": 512}
    )
    quiet.goto(f"{museum}/?from={made.json()['id']}")
    expect(quiet.locator("#model")).to_have_value("flux")
    expect(quiet.locator("#size")).to_have_value("640x512")


def test_the_form_says_how_much_of_a_prompt_the_model_reads_and_cuts_nothing(museum: str, quiet: Page) -> None:
    works(FLUX)
    quiet.goto(museum)
    stop, length = quiet.locator("#stop-0"), quiet.locator("#stop-0-length")
    expect(length).to_be_empty()
    stop.fill("")
    quiet.keyboard.insert_text("cat " * 40)
    expect(length).to_have_text("About 40 tokens, read in 2 parts.")
    quiet.locator("summary").click()
    quiet.locator("#model").select_option("flux")
    expect(length).to_be_empty()
    stop.fill("")
    quiet.keyboard.insert_text("cat " * 525)
    assert stop.input_value() == "cat " * 525
    expect(length).to_have_text("2099 of at most 2000 characters.")
    quiet.get_by_role("button", name="Make the walk").click()
    expect(quiet.locator("#stop-0-error")).to_have_text("Shorten it, please.")
    quiet.locator("#model").select_option("momalisa-mini")
    quiet.locator("#negative_prompt").fill("rain " * 401)
    expect(quiet.locator("#negative_prompt-hint")).to_have_text("2004 of at most 2000 characters.")
