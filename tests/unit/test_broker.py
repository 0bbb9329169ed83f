"""Parsing BROKER_URL, and errors of invalid URLs."""

import pytest
from pydantic import ValidationError

from momalisa import broker
from momalisa.broker import Address
from momalisa.settings import Settings


@pytest.mark.parametrize(
    ("url", "address", "celery_url"),
    [
        ("redis://one", Address((("one", 6379),)), "redis://one:6379/0"),
        (
            "redis://ann:p%40ss%2F@one:7000/3",
            Address((("one", 7000),), user="ann", password="p@ss/", db=3),  # noqa: S106
            "redis://ann:p%40ss%2F@one:7000/3",
        ),
        ("redis://[::1]:7000?db=2", Address((("::1", 7000),), db=2), "redis://[::1]:7000/2"),
        ("valkey://one/1", Address((("one", 6379),), db=1), "redis://one:6379/1"),
        ("rediss://one", Address((("one", 6379),), tls=True), "rediss://one:6379/0"),
        ("valkeys://one", Address((("one", 6379),), tls=True), "rediss://one:6379/0"),
        ("rediss://one?ssl_cert_reqs=CERT_REQUIRED", Address((("one", 6379),), tls=True), "rediss://one:6379/0"),
        (
            "rediss://one?ssl_cert_reqs=none",
            Address((("one", 6379),), tls=True, verified=False),
            "rediss://one:6379/0",
        ),
        ("unix:///run/v.sock", Address(socket="/run/v.sock"), "redis+socket:///run/v.sock?virtual_host=0"),
        (
            "redis+socket://:pw@/run/v.sock?virtual_host=4",
            Address(socket="/run/v.sock", password="pw", db=4),  # noqa: S106
            "redis+socket://:pw@/run/v.sock?virtual_host=4",
        ),
        ("redis+unix:///v.sock?db=4", Address(socket="/v.sock", db=4), "redis+socket:///v.sock?virtual_host=4"),
        ("sentinel://one/m", Address((("one", 26379),), master="m"), "sentinel://one:26379/0"),
        (
            "sentinel://:pw@one:1;sentinel://two;[::1]:3/m/5",
            Address((("one", 1), ("two", 26379), ("::1", 3)), master="m", password="pw", db=5),  # noqa: S106
            "sentinel://:pw@one:1/5;sentinel://:pw@two:26379/5;sentinel://:pw@[::1]:3/5",
        ),
        ("sentinel://one,two/m", Address((("one", 26379), ("two", 26379)), master="m"), None),
    ],
)
def test_a_url_is_parsed_and_converted_for_celery(url: str, address: Address, celery_url: str | None) -> None:
    assert broker.parse(url) == address
    assert celery_url in {address.celery_url(), None}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("amqp://:secret@one", "must be one of redis://"),
        ("memory://", "got memory://"),
        ("localhost:6379", "must be one of redis://"),
        ("redis://", "must have a host"),
        ("redis://:secret@one:port", "a port from 0 to 65535"),
        ("redis://one/zero", "must give the database as a number, got 'zero'"),
        ("redis://one?ssl_cert_reqs=none", "unknown parameters: ssl_cert_reqs"),
        ("rediss://one?ssl_cert_reqs=optional", "ssl_cert_reqs must be required or none"),
        ("rediss://one?ssl_ca_certs=/ca.pem", "unknown parameters: ssl_ca_certs"),
        ("unix://one/run/v.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("sentinel://one:26379;two:26379", "must name the master"),
        ("sentinel://one;;two/m", "a host before and after each semicolon"),
    ],
)
def test_an_ambiguous_url_is_refused_and_its_password_not_repeated(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", url)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "broker_url" in str(refused.value)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_systems_with_different_buckets_or_databases_share_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def prefix(**variables: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return Settings().queue_prefix

    database = "postgresql+psycopg://ann:pw@db/walks"
    assert prefix(BUCKET="art", DATABASE_URL=database) == "art:walks:"
    assert prefix(BUCKET="art", DATABASE_URL="postgresql://bob@pooler:6432/walks?sslmode=require") == "art:walks:"
    assert prefix(BUCKET="art", DATABASE_URL="postgresql+psycopg://momalisa@/x?host=/run/a") == "art:x:"
    assert prefix(QUEUE_PREFIX="mine/") == "mine/"
