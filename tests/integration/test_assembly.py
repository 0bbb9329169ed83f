"""Assembly with a real bucket: from frames to artifacts."""

from collections.abc import Callable
from uuid import UUID

import httpx
import imageio.v3 as iio
import pytest
from fastapi.testclient import TestClient

from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ENLARGED, ArtifactKind
from momalisa.local.stack import LocalStack
from momalisa.walks import queries
from tests.finished_walks import make_finished_walk
from worker import assemble_task
from worker.media import encoders
from worker.media.encoders import Picture


def checksums(walk_id: UUID) -> dict[ArtifactKind, str]:
    with transaction() as session:
        return {made.kind: made.crc32c for made in queries.get(session, walk_id, viewer=None).artifacts}


def test_frames_are_decoded_once_within_the_cache_and_artifacts_do_not_depend_on_it(
    services: LocalStack, spec: Callable[..., WalkSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def decode(data: bytes) -> Picture:
        decoded.append(data)
        return decode_png(data)

    decode_png = encoders.decode_png
    monkeypatch.setattr(encoders, "decode_png", decode)
    walk = spec(frames=8, hold=2)
    roomy = checksums(make_finished_walk(walk))
    assert (set(roomy), len(decoded)) == (set(ArtifactKind) - set(ENLARGED), 8)

    decoded.clear()
    monkeypatch.setattr(assemble_task, "CACHE_BYTES", 5 * 3 * walk.width * walk.height)
    assert checksums(make_finished_walk(walk)) == roomy
    # Twice for the GIF, once each for three others and the check; the last one for the card, too.
    once, for_each_look = [1] * 5, [6, 6, 7]
    assert sorted(decoded.count(data) for data in set(decoded)) == once + for_each_look


def test_large_files_have_1080_lines_and_say_what_they_are_enlarged_from(
    api: TestClient, spec: Callable[..., WalkSpec]
) -> None:
    walk_id = make_finished_walk(spec(frames=2, width=128, height=64, large=True))
    found = api.get(f"/v1/walks/{walk_id}").json()["artifacts"]
    assert {kind for kind, each in found.items() if each["enlarged_from"]} == {"large", "large_still"}
    for kind in ("large", "large_still"):
        file = httpx.get(found[kind]["url"])
        frame = iio.imread(file.content, index=0, extension={"large": ".mp4"}.get(kind, ".png"))
        assert (frame.shape[1], frame.shape[0]) == (found[kind]["width"], found[kind]["height"]) == (2160, 1080)
        assert found[kind]["enlarged_from"] == 64
        assert "-enlarged-from-64." in file.headers["content-disposition"]


def test_a_walk_without_smaller_frames_has_no_large_files_and_says_so(
    api: TestClient, spec: Callable[..., WalkSpec]
) -> None:
    walk_id = make_finished_walk(spec(frames=2, width=64, height=1088, large=True))
    found = api.get(f"/v1/walks/{walk_id}").json()
    assert not found["artifacts"].keys() & {"large", "large_still"}
    assert "There are no large files, since the frames have 1088 lines." in found["warnings"]
