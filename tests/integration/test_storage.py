from uuid import uuid4

import httpx
import pytest

from momalisa import storage
from momalisa.errors import LeaseLostError, ObjectCorruptError
from momalisa.processes import free_port
from momalisa.storage import StoredObject
from tests.conftest import forget

pytestmark = pytest.mark.usefixtures("services")


@pytest.fixture
def name() -> str:
    return f"walks/{uuid4()}/frames/0.500000000.png"


def test_what_was_put_can_be_read(name: str) -> None:
    stored = storage.put(name, b"picture", "image/png")
    assert (stored.name, stored.bytes) == (name, 7)
    assert storage.read(stored) == b"picture"


def test_the_same_object_is_put_once(name: str) -> None:
    first = storage.put(name, b"picture", "image/png")
    generation = storage._bucket().get_blob(name).generation
    assert storage.put(name, b"picture", "image/png") == first
    assert storage._bucket().get_blob(name).generation == generation


def test_a_damaged_object_is_replaced_by_whoever_still_has_the_right_to(name: str) -> None:
    storage.put(name, b"dama", "image/png")

    def refuse() -> None:
        raise LeaseLostError

    with pytest.raises(LeaseLostError):
        storage.put(name, b"picture", "image/png", confirm=refuse)
    stored = storage.put(name, b"picture", "image/png")
    assert (stored.bytes, storage.read(stored)) == (7, b"picture")


def test_whoever_must_stop_does_not_wait_for_a_bucket_that_is_down(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKET_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    forget()

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        storage.put(name, b"picture", "image/png", check=stop)
    with pytest.raises(InterruptedError):
        storage.read(StoredObject(name, 7, "AAAAAA=="), check=stop)


def test_a_browser_finds_it_and_may_keep_it_for_ever(name: str) -> None:
    storage.put(name, b"picture", "image/png", download_as="a-to-b.png")
    answer = httpx.get(storage.url(name))
    assert (answer.content, answer.headers["content-type"]) == (b"picture", "image/png")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-disposition"] == 'attachment; filename="a-to-b.png"'


def test_a_missing_object_is_told_from_a_changed_one(name: str) -> None:
    with pytest.raises(ObjectCorruptError, match="not in the bucket"):
        storage.read(StoredObject(name, 7, "AAAAAA=="))
    stored = storage.put(name, b"picture", "image/png")
    with pytest.raises(ObjectCorruptError, match="not what was recorded"):
        storage.read(StoredObject(name, stored.bytes, "AAAAAA=="))


def test_frames_sort_by_position_in_the_bucket() -> None:
    walk_id = uuid4()
    names = [storage.frame_name(walk_id, position) for position in (0.0, 0.0625, 0.5, 1.0)]
    assert names == sorted(names)
    assert names[0] == f"walks/{walk_id}/frames/0.000000000.png"


def test_making_the_bucket_again_changes_nothing(name: str) -> None:
    stored = storage.put(name, b"picture", "image/png")
    storage.make_bucket()
    assert storage.read(stored) == b"picture"
