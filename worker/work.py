"""What a worker does with a claimed chunk: render its frames, or assemble its walk."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.orm import Session

from momalisa import jobs, results, storage
from momalisa import walk as maths
from momalisa.chunks import ClaimedFrame, Due
from momalisa.database import transaction
from momalisa.errors import ObjectCorruptError
from momalisa.log import logger
from momalisa.results import MadeArtifact, MadeFrame
from momalisa.settings import settings
from momalisa.spec import frame_key, slug
from momalisa.storage import StoredObject
from momalisa.tables import ArtifactKind, ChunkKind
from worker import assembly
from worker.assembly import Picture
from worker.lease import Lease, Record
from worker.signature import signature

if TYPE_CHECKING:
    from worker.renderer import Renderer

log = logger(__name__)

T = TypeVar("T")

TRANSFERS = 8
"""Objects that are uploaded or downloaded at once."""

FILES = {
    ArtifactKind.GIF: ("gif", "image/gif"),
    ArtifactKind.MP4: ("mp4", "video/mp4"),
    ArtifactKind.POSTER: ("webp", "image/webp"),
    ArtifactKind.ZIP: ("zip", "application/zip"),
}
"""The extension and the content type of each artifact."""


@cache
def renderer() -> "Renderer":
    """Return the model of this process, loaded and warmed at the first call.

    Torch is imported here and not above, since an assembly worker has no use for it.
    """
    from worker.renderer import Renderer  # noqa: PLC0415

    loaded = Renderer(
        settings().model,
        batch_size=settings().batch_size,
        device=settings().device,
        threads=settings().threads,
    )
    loaded.warm_up(settings().image_size)
    return loaded


def render(lease: Lease) -> Record:
    """Make the frames of a chunk: copy those that the walk takes over from another, and render the rest.

    What is rendered is rendered as one batch, even if a part of it is recorded: the company in a batch changes
    pixels a little, and a walk that was interrupted shall look like one that was not.
    """
    claim = lease.claim
    warnings = renderer().warnings(claim.spec)
    keys = {frame: frame_key(claim.spec, frame.position, renderer().revision) for frame in claim.frames}
    copied = _copied(lease, keys)
    rest = [frame for frame in claim.frames if frame not in copied]
    made = list(filter(None, copied.values()))
    if any(frame.stored is None for frame in rest):
        pictures = renderer().render(claim.spec, [frame.position for frame in rest], lease.check)

        def upload(frame: ClaimedFrame, picture: Picture) -> MadeFrame | None:
            if frame.stored is not None:
                return None
            name, data = storage.frame_name(claim.walk_id, frame.position), assembly.encode_png(picture)
            stored = storage.put(name, data, "image/png", check=lease.check, confirm=lease.confirm)
            return MadeFrame(frame.position, stored, signature(picture), keys[frame])

        made += filter(None, _at_once(lease, upload, rest, pictures))

    def record(session: Session) -> Due | None:
        due = results.frames_done(session, claim, made)
        results.warn(session, claim, warnings)
        return due

    return record


def _copied(lease: Lease, keys: dict[ClaimedFrame, str]) -> dict[ClaimedFrame, MadeFrame | None]:
    """Copy the frames that the walk takes over from another, inside the bucket.

    Returns those that need not be rendered; None stands for one that was recorded before.
    """
    claim = lease.claim
    if claim.from_walk is None:
        return {}
    with transaction() as session:
        found = jobs.pictures(session, claim.from_walk, list(keys.values()), viewer=claim.owner)

    def copy(frame: ClaimedFrame) -> MadeFrame | None:
        original, looks = found[keys[frame]]
        stored = storage.copy(original, storage.frame_name(claim.walk_id, frame.position), check=lease.check)
        return None if stored is None else MadeFrame(frame.position, stored, looks, keys[frame])

    known = [frame for frame in keys if keys[frame] in found]
    missing = [frame for frame in known if frame.stored is None]
    copies = dict(zip(missing, _at_once(lease, copy, missing), strict=True))
    log.info("frames taken over", frames=sum(made is not None for made in copies.values()))
    return {frame: copies.get(frame) for frame in known if frame.stored or copies[frame]}


def assemble(lease: Lease) -> Record:
    """Make and upload the artifacts of a walk; or, if frames are missing or damaged, have them rendered again."""
    claim = lease.claim
    with tempfile.TemporaryDirectory(prefix="momalisa-") as folder:
        files, lost = _download(lease, Path(folder))
        if lost:
            return lambda session: Due(ChunkKind.RENDER) if results.frames_lost(session, claim, lost) else None

        shown = maths.sequence(
            [frame.position for frame in claim.frames],
            claim.spec.course.legs,
            hold=claim.spec.hold,
            loop=claim.spec.loop,
        )

        def frames() -> Iterator[Picture]:
            for index, times in groupby(shown):
                picture = assembly.decode_png(files[index].read_bytes())
                for _ in times:
                    lease.check()
                    yield picture

        made = {kind: Path(folder) / f"walk.{extension}" for kind, (extension, _) in FILES.items()}
        assembly.write_gif(made[ArtifactKind.GIF], frames, claim.spec.fps)
        assembly.write_mp4(made[ArtifactKind.MP4], frames, claim.spec.fps)
        middle = assembly.decode_png(files[len(files) // 2].read_bytes())
        assembly.write_poster(made[ArtifactKind.POSTER], middle)
        description = claim.spec.model_dump_json(indent=2).encode()
        contents = ((file.name, file.read_bytes()) for file in files)
        assembly.write_zip(made[ArtifactKind.ZIP], chain([("walk.json", description)], contents))
        height, width = middle.shape[:2]
        artifacts = [MadeArtifact(kind, _upload(lease, kind, path), width, height) for kind, path in made.items()]

    def record(session: Session) -> None:
        results.assembled(session, claim, artifacts)

    return record


def _download(lease: Lease, folder: Path) -> tuple[list[Path], list[float]]:
    """Fetch the frames of a walk into a folder.

    Returns the files in the order of the walk, and the positions of the frames that are missing or damaged.
    """

    def fetch(index: int, frame: ClaimedFrame) -> Path | None:
        if frame.stored is None:
            return None
        path = folder / f"{index:03}.png"
        try:
            data = storage.read(frame.stored, check=lease.check)
            assembly.decode_png(data)
        except ObjectCorruptError as error:
            log.warning("frame lost", position=frame.position, reason=str(error))
            return None
        path.write_bytes(data)
        return path

    fetched = _at_once(lease, fetch, range(len(lease.claim.frames)), lease.claim.frames)
    files = [path for path in fetched if path is not None]
    lost = [frame.position for frame, path in zip(lease.claim.frames, fetched, strict=True) if path is None]
    return files, lost


def _upload(lease: Lease, kind: ArtifactKind, file: Path) -> StoredObject:
    """Upload an artifact, so that a browser saves it under a name that tells what it shows."""
    extension, content_type = FILES[kind]
    return storage.put(
        storage.artifact_name(lease.claim.walk_id, file.name),
        file.read_bytes(),
        content_type,
        download_as=f"{slug(lease.claim.spec.prompts)}.{extension}" if kind != ArtifactKind.POSTER else None,
        check=lease.check,
        confirm=lease.confirm,
    )


def _at_once(lease: Lease, function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
    """Return what a function gives for each set of arguments, from several threads at once.

    When the work should end, it does not wait for what is under way: those threads stop by themselves before they
    try anything again, and what they finish does no harm.
    """
    pool = ThreadPoolExecutor(TRANSFERS)
    try:
        futures = [pool.submit(function, *each) for each in zip(*arguments, strict=True)]
        pending = set(futures)
        while pending:
            lease.check()
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
