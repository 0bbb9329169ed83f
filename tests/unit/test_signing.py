from collections.abc import Iterator

import pytest

from api.signing import signed, verified
from momalisa.settings import settings


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SECRET_KEY", "a" * 32)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_what_we_signed_holds_for_its_value_and_its_purpose() -> None:
    given = signed("ann", "visitor")
    assert verified(given, "visitor") == "ann"
    assert verified(given, "cursor") is None
    signature = given.split(".")[1]
    for forged in ("", ".", "ann", "ann.", f"bob.{signature}", given[:-1], given + "x", "ann.ü"):
        assert verified(forged, "visitor") is None


def test_another_secret_makes_it_worthless(monkeypatch: pytest.MonkeyPatch) -> None:
    given = signed("ann", "visitor")
    monkeypatch.setenv("SECRET_KEY", "b" * 32)
    settings.cache_clear()
    assert verified(given, "visitor") is None
