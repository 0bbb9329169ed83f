"""Finished walks without a model: drawn frames are uploaded and assembled like rendered ones."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from uuid import UUID, uuid4

import numpy as np
from PIL import Image
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from momalisa.db.models import Artifact, Chunk, Frame, Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import ArtifactKind, ChunkKind, ChunkStatus, WalkStatus
from momalisa.queue import results
from momalisa.queue.lifecycle import Ready
from momalisa.queue.results import UploadedArtifact, UploadedFrame
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.walks import queries, service
from worker import assemble_task, runner
from worker.lease import Lease
from worker.media import encoders
from worker.media.encoders import Picture
from worker.media.metadata import frame_caption
from worker.media.thumbnail import thumbnail
from worker.process.worker import Worker
from worker.recording import Record

OWNER = "visitor:someone"

DEPTH = 2**16 - 1
"""Number of positions that the colour of a drawn frame can distinguish."""


def colour(position: float) -> tuple[int, int, int]:
    """Return the colour in the middle of a drawn frame, which identifies its position."""
    place = round(position * DEPTH)
    return place // 256, place % 256, 128


def drawn(spec: WalkSpec, position: float) -> Picture:
    """Return a frame: a disc in the colour of its position, before a sky that depends on the seed."""
    rows, columns = np.ogrid[: spec.height, : spec.width]
    shades = np.random.default_rng(spec.seed).integers(64, 255, (2, 3))
    sky = shades[0] + (shades[1] - shades[0]) * ((rows + columns) / (spec.height + spec.width))[..., None]
    picture: Picture = sky.astype(np.uint8)
    from_middle = (rows - spec.height / 2) ** 2 + (columns - spec.width / 2) ** 2
    picture[from_middle < (min(spec.width, spec.height) / 3) ** 2] = colour(position)
    return picture


def make_finished_walk(spec: WalkSpec, assemble: Callable[[Lease], Record] = assemble_task.assemble) -> UUID:
    """Create a public walk and complete it; no other worker may be running."""
    with transaction() as session:
        walk = service.create(session, spec, public=True, owner=OWNER)
    finish(walk.id, assemble)
    return walk.id


def finish(walk_id: UUID, assemble: Callable[[Lease], Record] = assemble_task.assemble) -> None:
    """Complete a queued walk; no other walk may be queued."""
    deadline = time.monotonic() + 300
    while not (status := _status(walk_id)).done:
        assert time.monotonic() < deadline, status
        kind = ChunkKind.ASSEMBLE if status == WalkStatus.ASSEMBLING else ChunkKind.RENDER
        runner.run(Worker(), kind, assemble if kind == ChunkKind.ASSEMBLE else draw)
    assert status == WalkStatus.SUCCEEDED


def _status(walk_id: UUID) -> WalkStatus:
    with transaction() as session:
        return session.scalars(select(Walk.status).where(Walk.id == walk_id)).one()


def draw(work: Lease) -> Record:
    """Draw the frames of a chunk, in place of `worker.render_task.render`."""
    claim = work.claim

    def upload(position: float) -> UploadedFrame:
        picture = drawn(claim.spec, position)
        data = encoders.encode_png(picture, frame_caption(claim.spec, claim.model, position))
        stored = bucket.upload(bucket.frame_name(claim.walk_id, claim.secret, position), data, "image/png")
        return UploadedFrame(position, stored, thumbnail(picture), "")

    made = work.run_concurrently(upload, [frame.position for frame in claim.frames])

    def record(session: Session) -> Ready | None:
        return results.record_frames(session, claim, made)

    return record


def leave_unassembled(work: Lease) -> Record:
    """Complete a walk with a poster only, because animations of 240 large frames take a minute."""
    first, spec = work.claim.frames[0].stored, work.claim.spec
    assert first
    poster = UploadedArtifact(ArtifactKind.POSTER, first, spec.width, spec.height)
    return lambda session: results.complete_walk(session, work.claim, [poster])


def insert_finished_walks(spec: WalkSpec, count: int, *, posters: int = 100) -> None:
    """Insert many finished public walks, which share a number of pictures and one video in the bucket.

    Each hundred of them have the same creation time, so that only their ids differ.
    """
    film = _artifact(make_finished_walk(spec.model_copy(update={"frames": 2})), ArtifactKind.MP4)
    stills = []
    for number in range(posters):
        file = BytesIO()
        Image.fromarray(drawn(spec.model_copy(update={"seed": number}), number / posters)).save(file, "webp")
        stills.append(bucket.upload(f"walks/{number}/poster.webp", file.getvalue(), "image/webp"))
    begin = datetime.now(UTC) - timedelta(days=20)
    walks = [
        {
            "id": uuid4(),
            "status": WalkStatus.SUCCEEDED,
            "owner": OWNER,
            "secret": bucket.new_secret(),
            "public": True,
            "spec": spec.model_copy(update={"prompts": (*spec.prompts[:1], f"lamp {number}")}),
            "model": settings().model_name,
            "batch_size": settings().batch_size,
            "frames_total": spec.frames,
            "frames_done": spec.frames,
            "created_at": begin + timedelta(seconds=number // 100),
            "finished_at": begin + timedelta(seconds=number // 100),
        }
        for number in range(count)
    ]
    size = {"width": spec.width, "height": spec.height}
    artifacts: list[dict[str, object]] = []
    for number, walk in enumerate(walks):
        still = stills[number % posters]
        of_walk = {"walk_id": walk["id"], **size}
        artifacts += [
            {**of_walk, "kind": ArtifactKind.POSTER, "object": still.name, "bytes": still.bytes, "crc32c": ""},
            {**of_walk, "kind": ArtifactKind.MP4, "object": film.object, "bytes": film.bytes, "crc32c": ""},
        ]
    chunk = {"number": 0, "kind": ChunkKind.RENDER, "status": ChunkStatus.DONE, "tenant": "", "model": ""}
    chunks = [{**chunk, "walk_id": walk["id"], "virtual_time": 0, "priority": 2} for walk in walks]
    frames = [
        {
            "walk_id": walk["id"],
            "chunk": 0,
            "position": position,
            "object": stills[(number + place) % posters].name,
            "bytes": 1,
            "crc32c": "",
            "rendered_at": walk["finished_at"],
        }
        for number, walk in enumerate(walks)
        for place, position in ((0, 0.0), (1, 1.0))
    ]
    with transaction() as session:
        for table, rows in ((Walk, walks), (Artifact, artifacts), (Chunk, chunks), (Frame, frames)):
            session.execute(insert(table), rows)


def _artifact(walk_id: UUID, kind: ArtifactKind) -> Artifact:
    with transaction() as session:
        (found,) = (made for made in queries.get(session, walk_id, viewer=None).artifacts if made.kind == kind)
        return found
