"""More than one model in one deployment: what is on offer, and what a model takes."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, update

from momalisa.db.models import Chunk, KnownModel, Walk, Worker
from momalisa.db.session import transaction
from momalisa.domain.states import ChunkKind
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.queue import catalog, leases, stats, workers
from momalisa.settings import ROOT, environment, settings
from tests import tiny
from tests.clients import accepted
from tests.conftest import until
from tests.reported_models import FLUX, works

ORDER = {"prompts": ["a giraffe", "a battleship"], "seed": 7}


def listed(api: TestClient) -> list[tuple[str, bool, int]]:
    return [(each["name"], each["default"], each["workers"]) for each in api.get("/v1/models").json()["models"]]


def make(api: TestClient, **fields: Any) -> dict[str, Any]:
    return accepted(api, {**ORDER, **fields})


def errors(api: TestClient, **fields: Any) -> dict[str, str]:
    answer = api.post("/v1/walks", json={**ORDER, **fields})
    assert answer.status_code == 422, answer.text
    return {each["field"]: each["message"] for each in answer.json()["errors"]}


def test_the_default_model_is_on_offer_without_a_worker_and_others_with_one(api: TestClient) -> None:
    assert listed(api) == [("momalisa-mini", True, 0)]
    works(FLUX)
    assert listed(api) == [("momalisa-mini", True, 0), ("flux", False, 1)]
    with transaction() as session:
        workers.report_gone(session, "there:1")
    assert listed(api) == [("momalisa-mini", True, 0)]


def test_a_model_stays_dense_while_another_worker_loads_it(api: TestClient) -> None:
    def dense(**reported: bool) -> bool:
        known = FLUX.model_copy(update={"dense": reported.get("dense", False)})
        with transaction() as session:
            catalog.report(session, known, loaded="dense" in reported)
            workers.report_alive(session, "there:1", ChunkKind.RENDER, FLUX.name)
        [_, found] = api.get("/v1/models").json()["models"]
        return bool(found["dense"])

    assert [dense(), dense(dense=True), dense(), dense(dense=False), dense()] == [False, True, True, False, False]


def test_a_walk_is_made_with_the_model_that_it_names_and_its_defaults(api: TestClient) -> None:
    works(FLUX)
    walk, usual = make(api, model="flux"), make(api)
    assert (walk["model"], usual["model"]) == ("flux", "momalisa-mini")
    chosen = ("width", "height", "steps", "guidance")
    assert [walk["settings"][name] for name in chosen] == [1024, 1024, 4, 0]
    assert [usual["settings"][name] for name in chosen] == [128, 128, 8, 2]


def test_workers_take_the_walks_of_their_own_model(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    works(FLUX)
    walk = make(api, model="flux")
    with transaction() as session:
        assert leases.claim(session, ChunkKind.RENDER, "here:1") is None
    monkeypatch.setenv("MODEL", "/models/flux")
    settings.cache_clear()
    with transaction() as session:
        claim = leases.claim(session, ChunkKind.RENDER, "there:1")
    assert claim
    assert (str(claim.walk_id), claim.model) == (walk["id"], "flux")


def test_a_model_that_no_worker_has_is_refused_and_those_there_are_named(api: TestClient) -> None:
    works(FLUX)
    assert errors(api, model="sdxl") == {"model": "no worker has “sdxl”; available: momalisa-mini, flux"}
    with transaction() as session:
        workers.report_gone(session, "there:1")
    assert errors(api, model="flux") == {"model": "no worker has “flux”; available: momalisa-mini"}
    assert errors(api, model="x" * 301) == {"model": "at most 300 characters, got 301"}


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"width": 1032}, {"width": "must be a multiple of 16 for flux, got 1032"}),
        ({"scheduler": "ddim"}, {"scheduler": "must be left out for flux, got 'ddim'"}),
        (
            {"model": None, "width": 512, "height": 264},
            {
                "width": "momalisa-mini renders at most 256 pixels, got 512",
                "height": "momalisa-mini renders at most 256 pixels, got 264",
            },
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    api: TestClient, fields: dict[str, Any], refused: dict[str, str]
) -> None:
    works(FLUX)
    assert errors(api, **{"model": "flux", **fields}) == refused


def test_what_has_no_effect_is_said(api: TestClient) -> None:
    works(FLUX)
    unread = make(api, model="flux", negative_prompt="rain", guidance=7.5)
    assert unread["warnings"] == [
        "flux does not read negative prompts: “rain” has no effect.",
        "flux takes no guidance: 7.5 has no effect.",
    ]
    weak = make(api, negative_prompt="rain", guidance=1)
    assert weak["warnings"] == ["With guidance 1 a negative prompt has no effect: it needs more than 1."]
    assert make(api, negative_prompt="rain")["warnings"] == []


def test_what_is_read_as_words_is_said(api: TestClient) -> None:
    works(FLUX)
    prompts = ["a (cat:1.3)", "a dog <lora:inks:0.8> BREAK [fog:rain:0.5]"]
    words = [
        "“<lora:inks:0.8>” is read as words, not as an instruction.",
        "“BREAK” is read as words, not as an instruction.",
        "“[fog:rain:0.5]” is read as words, not as an instruction.",
    ]
    assert make(api, prompts=prompts)["warnings"] == words
    assert make(api, prompts=prompts, model="flux")["warnings"] == [
        "flux reads no weights: it takes the brackets in “a (cat:1.3)” literally.",
        "flux reads no weights: it takes the brackets in “a dog <lora:inks:0.8> BREAK [fog:rain:0.5]” literally.",
        *words,
    ]


def test_a_leg_on_which_nothing_changes_is_said(api: TestClient) -> None:
    still = "Nothing changes from “a cat” to “a cat”."
    same = {"prompts": ["a cat", "a  cat"]}
    assert make(api, **same)["warnings"] == [still]
    assert make(api, **same, seed_to=7)["warnings"] == [still]
    assert make(api, **same, seed_to=8)["warnings"] == []
    assert make(api, **same, seed=None, seeds=[7, 8])["warnings"] == []
    assert make(api, **same, negative_prompts=["rain", "fog"])["warnings"] == []
    assert make(api, prompts=["a cat", "a dog", "a dog", "a cat"], loop="closed")["warnings"] == [
        "Nothing changes from “a dog” to “a dog”.",
        still,
    ]


def test_models_say_how_they_read_prompts(api: TestClient) -> None:
    works(FLUX)
    listed = api.get("/v1/models").json()["models"]
    assert [[each[name] for name in ("tokens", "windows", "emphasis")] for each in listed] == [
        [32, 8, True],
        [512, 1, False],
    ]


def test_a_remix_keeps_the_model_or_takes_the_defaults_of_another(api: TestClient) -> None:
    works(FLUX)
    source = make(api, model="flux", steps=9)
    again = make(api, prompts=None, from_walk=source["id"], seed=None)
    assert (again["model"], again["settings"]["steps"], again["settings"]["width"]) == ("flux", 9, 1024)
    other = make(api, prompts=None, from_walk=source["id"], model="momalisa-mini")
    assert (other["model"], other["settings"]["steps"], other["settings"]["width"]) == ("momalisa-mini", 8, 128)
    assert make(api, from_walk=source["id"], model=None)["model"] == "momalisa-mini"


def test_the_form_offers_a_choice_where_there_is_one(api: TestClient) -> None:
    assert '<select id="model"' not in api.get("/").text
    works(FLUX)
    assert '<select id="model"' in api.get("/").text
    source = make(api, model="flux")
    remix = api.get("/", params={"from": source["id"]}).text
    assert '<option value="flux" selected>' in remix
    assert '<option value="1024x1024" selected>' in remix
    with transaction() as session:
        workers.report_gone(session, "there:1")
    remix = api.get("/", params={"from": source["id"]}).text
    assert '<input type="hidden" name="model" value="momalisa-mini">' in remix
    assert "1024x1024" not in remix


def test_the_form_limits_the_steps_to_those_of_the_model(api: TestClient) -> None:
    works(FLUX.model_copy(update={"fewest_steps": 2, "most_steps": 12}))
    source = make(api, model="flux")
    page = api.get("/", params={"from": source["id"]}).text
    assert re.search(r'name="steps" type="number" value="\d*" min="2" max="12"', page)
    assert '"fewest_steps": 2' in page


def test_the_plain_form_says_what_a_model_cannot_do(api: TestClient) -> None:
    works(FLUX)
    form = {"prompts": ["a", "b"], "frames": "4", "size": "520x512", "scheduler": "ddim"}
    page = api.post("/walks", data={**form, "model": "flux"})
    assert page.status_code == 422
    assert "must be a multiple of 16 for flux, got 520" in page.text
    assert "must be left out for flux" in page.text
    page = api.post("/walks", data={**form, "model": "sdxl"})
    assert "no worker has “sdxl”" in page.text


def test_a_walk_that_names_no_model_is_stored_with_the_default(api: TestClient) -> None:
    make(api)
    with transaction() as session:
        [walk] = session.query(Walk).all()
        assert (walk.model, walk.spec.model) == ("momalisa-mini", "momalisa-mini")


def test_a_model_that_no_worker_has_had_for_a_month_is_forgotten(api: TestClient) -> None:
    for number, name in enumerate(("lately", "working", "awaited", "gone", settings().model_name)):
        works(FLUX.model_copy(update={"name": name}), f"there:{number}")
    make(api, model="awaited", width=512, height=512)
    with transaction() as session:
        for number in (0, 2, 3, 4):
            workers.report_gone(session, f"there:{number}")
        session.execute(
            update(KnownModel)
            .where(KnownModel.name != "lately")
            .values(described_at=func.now() - catalog.REMEMBERED - timedelta(hours=1))
        )
    reconciler.delete_old_records()
    with transaction() as session:
        assert set(stats.models(session)) == {"lately", "working", "awaited", settings().model_name}
        assert session.query(KnownModel).count() == 4


def test_workers_with_different_models_render_side_by_side(
    api: TestClient, services: LocalStack, tmp_path: Path
) -> None:
    own = {"ink": {"size": 64, "steps": 2}, "oil": {"size": 72, "steps": 3, "about": "It paints in oil."}}
    processes = []
    for name, fields in own.items():
        model = tiny.stable_diffusion(tmp_path / name)
        (model / "momalisa.json").write_text(json.dumps(fields))
        variables = {**services.variables, "MODEL": str(model), "THREADS": "1"}
        command = [sys.executable, "-m", "worker", "render"]
        with (tmp_path / f"{name}.log").open("w") as log:
            started = subprocess.Popen(command, cwd=ROOT, env=environment(**variables), stdout=log, stderr=log)
        processes.append(started)
    try:
        until(lambda: [each[0] for each in listed(api) if each[2] == 1] == list(own), 180)
        described = {each["name"]: each for each in api.get("/v1/models").json()["models"]}
        assert described["oil"]["about"] == "It paints in oil."
        walks = {name: make(api, model=name, frames=2) for name in own}
        assert [(walk["settings"]["width"], walk["settings"]["steps"]) for walk in walks.values()] == [
            (64, 2),
            (72, 3),
        ]

        def seen(name: str) -> dict[str, Any]:
            walk: dict[str, Any] = api.get(f"/v1/walks/{walks[name]['id']}").json()
            assert walk["error"] is None
            return walk

        until(lambda: all(seen(name)["progress"]["frames_done"] == 2 for name in own), 60)
        with transaction() as session:
            chunks = session.query(Chunk).where(Chunk.kind == ChunkKind.RENDER).all()
            by = {chunk.model: chunk.worker for chunk in chunks}
            alive = {worker.name: worker.model for worker in session.query(Worker).all()}
        assert {alive[str(by[name])] for name in own} == set(own)
        for name in own:
            picture = api.get(f"/v1/walks/{walks[name]['id']}/frames/0", follow_redirects=False)
            assert picture.status_code == 307
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
    assert listed(api) == [("momalisa-mini", True, 0)]
    assert errors(api, model="ink") == {"model": "no worker has “ink”; available: momalisa-mini"}
