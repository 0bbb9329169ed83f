"""Assembly with a real bucket: from frames to artifacts."""

from collections.abc import Callable
from uuid import UUID

import pytest

from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ArtifactKind
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
    assert (set(roomy), len(decoded)) == (set(ArtifactKind), 8)

    decoded.clear()
    monkeypatch.setattr(assemble_task, "CACHE_BYTES", 5 * 3 * walk.width * walk.height)
    assert checksums(make_finished_walk(walk)) == roomy
    once, for_each_look = [1] * 5, [6] * 3  # twice for the GIF, once each for three others and the check
    assert sorted(decoded.count(data) for data in set(decoded)) == once + for_each_look
