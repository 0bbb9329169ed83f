from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.signing import sign, verify
from momalisa.settings import Settings, settings

OLD, NEW = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def use(keys: str) -> None:
        monkeypatch.setenv("SECRET_KEYS", keys)
        settings.cache_clear()

    use(OLD)
    yield use
    settings.cache_clear()


def test_a_signature_is_valid_for_its_value_and_purpose_only() -> None:
    signed = sign("ann", "visitor")
    assert verify(signed, "visitor") == "ann"
    assert verify(signed, "cursor") is None
    signature = signed.split(".")[1]
    for forged in ("", ".", "ann", "ann.", f"bob.{signature}", signed[:-1], signed + "x", "ann.ü"):
        assert verify(forged, "visitor") is None


def test_a_signature_is_invalid_with_another_key(keys: Callable[[str], None]) -> None:
    signed = sign("ann", "visitor")
    keys(NEW)
    assert verify(signed, "visitor") is None


def test_key_rotation_keeps_old_signatures_valid(keys: Callable[[str], None]) -> None:
    before = sign("ann", "visitor")
    keys(f"{NEW}, {OLD}")
    during = sign("ann", "visitor")
    assert verify(before, "visitor") == verify(during, "visitor") == "ann"
    keys(NEW)
    assert (verify(before, "visitor"), verify(during, "visitor")) == (None, "ann")


def test_a_short_key_is_refused_without_showing_it(keys: Callable[[str], None]) -> None:
    keys(f"{NEW},short-secret")
    with pytest.raises(ValueError, match="secret_keys") as refused:
        settings()
    assert "short-secret" not in str(refused.value)


def test_keys_may_be_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SECRET_KEYS")
    (tmp_path / "secret_keys").write_text(f"{NEW},{OLD}\n")
    found = Settings(_secrets_dir=tmp_path).secret_keys
    assert [key.get_secret_value() for key in found] == [NEW, OLD]
