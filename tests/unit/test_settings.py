import os

import pytest
from pydantic import ValidationError

from momalisa.settings import ROOT, Settings, environment, explain, set_default_environment


def test_a_model_has_the_same_name_where_its_folder_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "/models/stable-diffusion-v1-5")
    assert Settings().model_name == "stable-diffusion-v1-5"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "")
    assert Settings().batch_size == 8


@pytest.mark.parametrize(
    "url", ["http://host/art", "https://host/a/", "host", "ftp://host", "https://", "http://h/?a"]
)
def test_public_url_must_have_no_path(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_URL", url)
    with pytest.raises(ValidationError, match="without a path"):
        Settings()


@pytest.mark.parametrize("url", ["http://localhost:8080", "https://momalisa.example/", "http://[::1]:8000"])
def test_public_url_is_a_host(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_URL", url)
    assert Settings().public_url == url


@pytest.mark.parametrize(
    ("name", "value"), [("BATCH_SIZE", "0"), ("IMAGE_SIZE", "100"), ("PORT", "70000"), ("MAX_SIZE", "32")]
)
def test_a_setting_out_of_bounds_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=f"(?i){name}"):
        Settings()


@pytest.mark.parametrize("secret", ["bm8gcHJlZml4", "whsec_c2hvcnQ=", "whsec_not base64!", "whsec_", "whsec_é"])
def test_a_secret_that_cannot_sign_is_refused_and_not_repeated(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    with pytest.raises(ValidationError, match="24 to 64 bytes in base64") as refused:
        Settings()
    assert secret not in str(refused.value).replace("whsec_ followed", "")


def test_secrets_are_not_printed_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "whsec_" + "MDEy" * 8  # 24 bytes
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    assert Settings().webhook_secret
    assert secret not in repr(Settings()) + Settings().model_dump_json()


def test_default_variables_are_not_inherited_and_override_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("momalisa.settings._defaults", set())
    monkeypatch.setenv("GIVEN", "1")
    monkeypatch.setenv("SUGGESTED", "")  # so that it is removed again
    monkeypatch.delenv("SUGGESTED")
    set_default_environment(GIVEN="2", SUGGESTED="2")
    assert (os.environ["GIVEN"], os.environ["SUGGESTED"]) == ("1", "2")
    assert environment()["GIVEN"] == "1"
    assert "SUGGESTED" not in environment()


def test_a_child_gets_this_environment_with_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("REMOVED", "1")
    child = environment(ADDED="2", REMOVED=None)
    assert (child["KEPT"], child["ADDED"]) == ("1", "2")
    assert "REMOVED" not in child


def test_every_setting_is_in_the_table_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name.upper() for name in Settings.model_fields if f"`{name.upper()}`" not in readme] == []


def test_invalid_settings_are_explained_in_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAS", "pixel:nan")
    monkeypatch.setenv("BATCH_SIZE", "0")
    with pytest.raises(ValidationError) as invalid:
        Settings()
    assert explain(invalid.value) == (
        "The settings are not valid. LORAS: the weight of a LoRA must be a finite number, got pixel:nan."
        " BATCH_SIZE: Input should be greater than or equal to 1."
    )
