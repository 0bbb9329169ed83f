"""Hiding and deleting walks, and prompts that are refused."""

from pathlib import Path
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from momalisa.cli import main
from momalisa.settings import settings
from tests.clients import ORDER, new_client, submit


def moderate(*words: str) -> str:
    run = CliRunner().invoke(main.app, ["moderate", *words])
    assert run.exit_code == (1 if "There is no walk" in run.output else 0), run.output
    return run.output


def shown(client: TestClient, walk_id: str) -> tuple[bool, int]:
    """Return whether a walk is in the gallery, and the status of a request for it."""
    gallery = [walk["id"] for walk in client.get("/v1/walks").json()["walks"]]
    return walk_id in gallery, client.get(f"/v1/walks/{walk_id}").status_code


def test_a_hidden_walk_is_visible_to_its_owner_only_until_it_is_shown_again(api: TestClient) -> None:
    walk_id = submit(api)
    assert "is hidden" in moderate("hide", walk_id)
    moderate("hide", walk_id)
    assert shown(new_client(api), walk_id) == (False, 404)
    assert shown(api, walk_id) == (False, 200)
    assert [walk["id"] for walk in api.get("/v1/walks?mine=true").json()["walks"]] == [walk_id]
    page = api.get(f"/walks/{walk_id}").text
    assert "<walk-view data-hidden>" in page  # so that it offers no code to embed the walk
    assert "+oembed" not in page
    assert "is shown" in moderate("show", walk_id)
    assert shown(new_client(api), walk_id) == (True, 200)


def test_a_walk_deleted_by_an_operator_is_gone_for_everyone(api: TestClient) -> None:
    walk_id = submit(api)
    assert "is deleted" in moderate("delete", walk_id)
    assert shown(api, walk_id) == (False, 404)
    for command in ("hide", "show", "delete"):
        assert f"There is no walk {walk_id}." in moderate(command, walk_id)
    assert "There is no walk" in moderate("delete", str(uuid4()))


@pytest.fixture
def blocklist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "blocklist.txt"
    file.write_text("# what we do not want\nugly\nbad  word # two of them\nMÜLL\n\n")
    monkeypatch.setenv("BLOCKLIST", str(file))
    settings.cache_clear()
    return file


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("an ugly duck", "ugly"),
        ("UGLY", "ugly"),
        ("ｕｇｌｙ", "ugly"),
        ("an úgly duck", "ugly"),
        ("a bad word", "bad word"),
        ("a bad, word", "bad, word"),
        ("müll", "mull"),
        ("an_ugly_duck", "ugly"),
        ("bad_word", "bad_word"),
        ("u\u200bg\u00adl\ufe0fy", "ugly"),
        ("u\U000e0067gl\u034fy", "ugly"),
        ("uɡlу", "ugly"),
        ("υGLʏ", "ugly"),
        ("🅄🅖🅻ｙ", "ugly"),
        ("an (ug:1.0)ly duck", "ugly"),
        ("a (b:1)ad [wo]rd", "bad word"),
    ],
)
def test_a_prompt_with_a_banned_word_is_refused_with_its_field(
    api: TestClient, blocklist: Path, prompt: str, found: str
) -> None:
    answer = api.post("/v1/walks", json={**ORDER, "prompts": ["a duck", prompt]})
    assert answer.status_code == 422
    message = f"“{found}” is not allowed in prompts on this site"
    assert answer.json()["errors"] == [{"field": "prompts[1]", "message": message}]


@pytest.mark.parametrize("prompt", ["an uglysaurus", "smugly", "a word, bad", "two of them", "what we do not want"])
def test_similar_words_are_allowed(api: TestClient, blocklist: Path, prompt: str) -> None:
    submit(api, prompts=["a duck", prompt])


def test_the_name_of_a_model_is_no_prompt(
    api: TestClient, blocklist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", "/models/ugly-ducks")
    settings.cache_clear()
    submit(api, model="ugly-ducks")


def test_negative_prompts_are_checked_too(api: TestClient, blocklist: Path) -> None:
    answer = api.post("/v1/walks", json={**ORDER, "negative_prompt": "ugly"})
    assert [error["field"] for error in answer.json()["errors"]] == ["negative_prompt"]


@pytest.mark.parametrize(
    "prompt",
    [
        *("жираф на лугу", "ένα καράβι", "नमस्ते दुनिया", "ที่นี่ น้ำ", "👩‍🚀👨‍👩‍👧‍👦 🏳️‍🌈", "ญี่ปุ่น", "城堡", "שָׁלוֹם", "לְפַנֵּים"),
        *("tiếng Việt", "e\u0323\u0302", "1️⃣", "🏴\U000e0067\U000e0062\U000e007f"),
        *("🩷 🪼 🫎 🫏 🪿 🫨 🪉", "\U0001faff", "\u0378"),  # not in the table of every Python
    ],
)
def test_prompts_in_all_scripts_are_accepted(api: TestClient, blocklist: Path, prompt: str) -> None:
    submit(api, prompts=["a duck", prompt])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("\u200b\u2060", "needs a visible character"),
        ("\u3164\u2800\ufe0f", "needs a visible character"),
        ("\u0301\u0301", "needs a visible character"),
        ("z" + "\u0300" * 7, "at most 6 combining marks"),
    ],
)
def test_an_unreadable_prompt_is_refused(api: TestClient, prompt: str, words: str) -> None:
    answer = api.post("/v1/walks", json={**ORDER, "prompts": ["a duck", prompt]})
    assert answer.status_code == 422
    assert words in answer.json()["errors"][0]["message"]


def test_an_infinitesimal_weight_is_refused(api: TestClient) -> None:
    answer = api.post("/v1/walks", json={**ORDER, "weights": [1e-200, 1e-200]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0] == {"field": "weights[0]", "message": "at least 0.01, got 1e-200"}
    submit(api, weights=[0.01, 100])
