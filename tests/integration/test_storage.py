import hashlib
import os
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from momalisa.errors import LeaseLostError, ObjectCorruptError
from momalisa.local.processes import free_port
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from tests.conftest import clear_caches

pytestmark = pytest.mark.usefixtures("services")


@pytest.fixture
def name() -> str:
    return f"walks/{uuid4()}/secret/frames/0.500000000.png"


def test_an_uploaded_object_can_be_read(name: str) -> None:
    stored = bucket.upload(name, b"picture", "image/png")
    assert (stored.name, stored.bytes) == (name, 7)
    assert bucket.read(stored) == b"picture"


def test_a_large_file_is_uploaded_and_checked_in_pieces(name: str, tmp_path: Path) -> None:
    file = tmp_path / "walk.zip"
    piece = os.urandom(1024 * 1024)
    with file.open("wb") as out:
        for _ in range(20):
            out.write(piece)
    bucket._bucket()  # with all its imports
    tracemalloc.start()
    stored = bucket.upload(name, file, "application/zip", download_as="a-to-b.zip")
    assert bucket.upload(name, file, "application/zip") == stored
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stored.bytes == file.stat().st_size
    assert peak < stored.bytes / 2
    assert bucket.read(stored) == file.read_bytes()  # which also compares the checksum
    assert bucket._bucket().get_blob(name).content_disposition == 'attachment; filename="a-to-b.zip"'


def test_only_the_first_failed_attempt_is_logged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    clear_caches()
    tries = 0

    def stop() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            raise InterruptedError

    with capture_logs() as lines, pytest.raises(InterruptedError):
        bucket.upload(name, b"picture", "image/png", check=stop)
    assert [(line["event"], line["object"]) for line in lines] == [("bucket request retried", name)]
    assert "refused" in lines[0]["cause"]


def test_the_same_object_is_uploaded_once(name: str) -> None:
    first = bucket.upload(name, b"picture", "image/png")
    generation = bucket._bucket().get_blob(name).generation
    assert bucket.upload(name, b"picture", "image/png") == first
    assert bucket._bucket().get_blob(name).generation == generation


def test_a_damaged_object_is_replaced_if_confirmed(name: str) -> None:
    bucket.upload(name, b"dama", "image/png")

    def refuse() -> None:
        raise LeaseLostError

    with pytest.raises(LeaseLostError):
        bucket.upload(name, b"picture", "image/png", confirm=refuse)
    stored = bucket.upload(name, b"picture", "image/png")
    assert (stored.bytes, bucket.read(stored)) == (7, b"picture")


def test_cancelled_work_does_not_wait_for_an_unavailable_bucket(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    clear_caches()

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        bucket.upload(name, b"picture", "image/png", check=stop)
    with pytest.raises(InterruptedError):
        bucket.read(StoredObject(name, 7, "AAAAAA=="), check=stop)


def test_browsers_can_load_an_object_and_cache_it_forever(name: str) -> None:
    bucket.upload(name, b"picture", "image/png", download_as="a-to-b.png")
    answer = httpx.get(bucket.url(name, "http://museum"))
    assert (answer.content, answer.headers["content-type"]) == (b"picture", "image/png")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-disposition"] == 'attachment; filename="a-to-b.png"'


def test_a_file_name_may_be_in_any_script(name: str) -> None:
    bucket.upload(name, b"picture", "image/png", download_as="猫-to-犬.png")
    answer = httpx.get(bucket.url(name, "http://museum"))
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%E7%8C%AB-to-%E7%8A%AC.png"


def test_a_missing_object_differs_from_a_changed_one(name: str) -> None:
    with pytest.raises(ObjectCorruptError, match="is missing"):
        bucket.read(StoredObject(name, 7, "AAAAAA=="))
    stored = bucket.upload(name, b"picture", "image/png")
    with pytest.raises(ObjectCorruptError, match="differs from the recorded one"):
        bucket.read(StoredObject(name, stored.bytes, "AAAAAA=="))


def test_frames_sort_by_position_in_the_bucket() -> None:
    walk_id = uuid4()
    names = [bucket.frame_name(walk_id, "secret", position) for position in (0.0, 0.0625, 0.5, 1.0)]
    assert names == sorted(names)
    assert names[0] == f"walks/{walk_id}/secret/frames/0.000000000.png"


def test_creating_the_bucket_again_changes_nothing(name: str) -> None:
    stored = bucket.upload(name, b"picture", "image/png")
    bucket.make_bucket()
    assert bucket.read(stored) == b"picture"


def test_the_signature_of_a_url_is_valid_by_googles_rules(name: str, private_bucket: rsa.RSAPublicKey) -> None:
    """The signature is checked by the rules in Google's document "V4 signing process", not by its code."""
    bucket.upload(name, b"picture", "image/png")
    url = httpx.URL(bucket.url(name, "http://museum"))
    assert httpx.get(url).content == b"picture"
    query = {key: url.params[key] for key in sorted(url.params)}
    signature = bytes.fromhex(query.pop("X-Goog-Signature"))
    canonical = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in query.items())
    host = url.netloc.decode()
    request = f"GET\n{url.path}\n{canonical}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    scope = query["X-Goog-Credential"].removeprefix("api@momalisa.example/")
    digest = hashlib.sha256(request.encode()).hexdigest()
    signed = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}"
    private_bucket.verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    made = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    expires_at = bucket.urls_expire_at()
    assert expires_at
    assert abs(made + timedelta(seconds=int(query["X-Goog-Expires"])) - expires_at) <= timedelta(seconds=1)
    stored = bucket._bucket().get_blob(name)
    assert stored.cache_control.startswith("private")


def test_a_signed_url_stays_the_same_for_half_of_its_lifetime(
    name: str, private_bucket: rsa.RSAPublicKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = datetime.now(UTC).timestamp() // 1800 * 1800
    monkeypatch.setattr(time, "time", lambda: begin)
    first = (bucket.url(name, "http://museum"), bucket.urls_expire_at())
    monkeypatch.setattr(time, "time", lambda: begin + 1799)
    assert (bucket.url(name, "http://museum"), bucket.urls_expire_at()) == first
    monkeypatch.setattr(time, "time", lambda: begin + 1800)
    assert bucket.url(name, "http://museum") != first[0]
    assert bucket.urls_expire_at() == datetime.fromtimestamp(begin + 5400, UTC)


def test_a_client_sees_when_its_urls_expire(private_bucket: rsa.RSAPublicKey, api: TestClient) -> None:
    walk = api.post("/v1/walks", json={"prompts": ["a", "b"], "frames": 2}).json()
    url = f"/v1/walks/{walk['id']}"
    expires_at = bucket.urls_expire_at()
    assert expires_at
    assert datetime.fromisoformat(walk["urls_expire_at"]) == expires_at
    assert f".{int(expires_at.timestamp())}" in api.get(url).headers["etag"]


def test_a_copy_is_a_separate_object(name: str) -> None:
    original = bucket.upload(name, b"picture", "image/png")
    copy = bucket.copy(original, f"copy/{name}")
    assert copy is not None
    assert bucket.copy(original, f"copy/{name}") == copy  # there already
    bucket.delete_all(name)
    assert bucket.read(copy) == b"picture"
    blob = bucket._bucket().get_blob(f"copy/{name}")
    assert (blob.content_type, blob.cache_control) == ("image/png", f"public, {bucket.FOREVER}")


def test_a_missing_or_changed_object_is_not_copied(name: str) -> None:
    original = bucket.upload(name, b"picture", "image/png")
    bucket._bucket().blob(name).upload_from_string(b"damaged", "image/png")
    assert bucket.copy(original, f"copy/{name}") is None
    bucket.delete_all(name)
    assert bucket.copy(original, f"another/{name}") is None
