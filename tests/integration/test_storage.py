from uuid import uuid4

import httpx
import pytest

from momalisa import storage
from momalisa.errors import ObjectCorruptError
from momalisa.storage import StoredObject

pytestmark = pytest.mark.usefixtures("services")


@pytest.fixture
def name() -> str:
    return f"walks/{uuid4()}/frames/0.500000000.png"


def test_what_was_put_can_be_read(name: str) -> None:
    stored = storage.put(name, b"picture", "image/png")
    assert (stored.name, stored.bytes) == (name, 7)
    assert storage.read(stored) == b"picture"


def test_an_object_is_never_overwritten(name: str) -> None:
    first = storage.put(name, b"first", "image/png")
    assert storage.put(name, b"second, longer", "image/png") == first
    assert storage.read(first) == b"first"


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
