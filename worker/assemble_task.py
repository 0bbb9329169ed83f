"""Assembling a walk: its artifacts are made from its frames, and uploaded."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from sqlalchemy.orm import Session

from momalisa.domain.file_names import file_name
from momalisa.domain.path import leg, sequence
from momalisa.domain.states import ENLARGED, ArtifactKind, Flag, made_counts
from momalisa.errors import ObjectCorruptError
from momalisa.queue import results
from momalisa.queue.leases import Claim, ClaimedFrame
from momalisa.queue.results import UploadedArtifact
from momalisa.settings import settings
from momalisa.storage import bucket
from momalisa.storage.bucket import StoredObject
from momalisa.telemetry.logging import logger
from worker.lease import Lease
from worker.media import card, contact_sheet, encoders, gif
from worker.media.encoders import Picture
from worker.media.metadata import walk_caption, walk_request
from worker.recording import Record

log = logger(__name__)

FILES = {
    ArtifactKind.GIF: ("walk.gif", "image/gif"),
    ArtifactKind.MP4: ("walk.mp4", "video/mp4"),
    ArtifactKind.WEBP: ("walk.webp", "image/webp"),
    ArtifactKind.POSTER: ("poster.webp", "image/webp"),
    ArtifactKind.CARD: ("card.jpg", "image/jpeg"),
    ArtifactKind.LARGE: ("large.mp4", "video/mp4"),
    ArtifactKind.LARGE_STILL: ("large.png", "image/png"),
    ArtifactKind.SHEET: ("sheet.png", "image/png"),
    ArtifactKind.ZIP: ("walk.zip", "application/zip"),
}
"""The file name and the content type of each artifact."""

STILLS = {ArtifactKind.POSTER, ArtifactKind.CARD, ArtifactKind.SHEET}
"""Artifacts that a browser displays; it saves the others."""

CACHE_BYTES = 256 << 20
"""For decoded pictures, which every artifact uses: enough for 240 of 512 × 512 pixels."""

FLAG_WARNINGS = {
    Flag.UNSAFE: (
        "1 frame was replaced by its neighbour, because the model's safety checker flagged it.",
        "{} frames were replaced by their neighbours, because the model's safety checker flagged them.",
    ),
    Flag.BLACK: (
        "1 frame was replaced by its neighbour, because it came out black.",
        "{} frames were replaced by their neighbours, because they came out black.",
    ),
}
"""The warnings about flagged frames, for one and for several."""


@dataclass(frozen=True)
class Fetched:
    """A downloaded frame that may be shown."""

    file: Path
    decoded: Picture | None
    """None if the cache was full; then it is decoded for each use."""

    def picture(self) -> Picture:
        """Return the decoded picture."""
        return encoders.decode_png(self.file.read_bytes()) if self.decoded is None else self.decoded


def assemble(lease: Lease) -> Record:
    """Make and upload the artifacts of a walk, or requeue frames that are missing or damaged."""
    claim = lease.claim
    # After a cancellation, a thread may still be writing here while the folder is removed.
    with tempfile.TemporaryDirectory(prefix="momalisa-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        fetched, lost = _download(lease, folder)
        if lost:
            return lambda session: results.requeue_frames(session, claim, lost)
        if not fetched:
            return partial(results.fail_without_frames, claim=claim)
        artifacts, omissions = _make_artifacts(lease, fetched, folder)
    neighbours = {
        frame.position: shown.stored
        for frame, shown in zip(claim.frames, shown_frames(claim.frames), strict=True)
        if frame is not shown and shown.stored is not None
    }

    def record(session: Session) -> None:
        results.complete_walk(session, claim, artifacts)  # first, since chunks are locked before their walk
        results.substitute_flagged(session, claim, neighbours)
        results.add_warnings(session, claim, warnings(claim.frames) + omissions)

    return record


def shown_frames(frames: Sequence[ClaimedFrame]) -> list[ClaimedFrame]:
    """Return the frame to show for each frame: itself, or its nearest neighbour if it is flagged.

    At least one frame must not be flagged.
    """
    good = [frame for frame in frames if frame.flagged is None]
    return [
        frame if frame.flagged is None else min(good, key=lambda other: abs(other.position - frame.position))
        for frame in frames
    ]


def warnings(frames: Sequence[ClaimedFrame]) -> list[str]:
    """Return warnings that say how many frames of a walk were replaced, and why."""
    counts = Counter(frame.flagged for frame in frames if frame.flagged is not None)
    return [FLAG_WARNINGS[flag][count > 1].format(count) for flag, count in sorted(counts.items())]


def _make_artifacts(
    lease: Lease, fetched: dict[float, Fetched], folder: Path
) -> tuple[list[UploadedArtifact], list[str]]:
    """Write all artifacts concurrently and upload them; also return what they leave out, in sentences.

    Args:
        lease: of the walk's assembly.
        fetched: the frames that may be shown, by position.
        folder: for the files.
    """
    claim = lease.claim
    spec, fps = claim.spec, claim.spec.fps
    shown = [fetched[frame.position] for frame in shown_frames(claim.frames)]
    positions = [frame.position for frame in claim.frames]
    order = sequence(positions, spec.timing.legs, hold=spec.hold, loop=spec.loop)
    assert claim.pins
    caption = walk_caption(
        spec, claim.model, claim.pins, made_counts((frame.made, frame.error) for frame in claim.frames)
    )
    again = json.dumps(walk_request(spec, claim.model, claim.pins), indent=1, ensure_ascii=False)
    middle = shown[len(shown) // 2].picture()
    height, width = middle.shape[:2]

    def pictures(indices: Iterable[int], size: tuple[int, int] | None = None) -> Iterator[Picture]:
        """Yield frames, enlarged if there is a size; one that is held is decoded and enlarged once."""
        for index, times in groupby(indices):
            picture = shown[index].picture()
            if size is not None:
                picture = encoders.enlarged(picture, size)
            for _ in times:
                lease.checkpoint()
                yield picture

    def files() -> Iterator[tuple[str, bytes]]:
        yield "walk.json", again.encode()
        for index, frame in enumerate(shown):
            yield f"{index:03}.png", frame.file.read_bytes()

    frames = partial(pictures, order)
    large = spec.large_size or (width, height)
    omissions = list[str]()

    def make(kind: ArtifactKind) -> UploadedArtifact:
        path, size = folder / FILES[kind][0], (width, height)
        match kind:
            case ArtifactKind.GIF:
                omissions.extend(gif.write(path, frames, fps, caption, settings().gif_max_bytes))
            case ArtifactKind.MP4:
                encoders.write_mp4(path, frames, fps, caption)
            case ArtifactKind.WEBP:
                omissions.extend(encoders.write_webp(path, frames, fps, caption))
            case ArtifactKind.POSTER:
                encoders.write_poster(path, middle, caption)
            case ArtifactKind.CARD:
                size = card.write(
                    path,
                    [shown[0].picture(), middle, shown[-1].picture()],
                    spec.prompts,
                    f"Latent diffusion, {len(shown)} frames",
                )
            case ArtifactKind.LARGE:
                size = large
                encoders.write_mp4(path, partial(pictures, order, large), fps, caption)
            case ArtifactKind.LARGE_STILL:
                size = large
                path.write_bytes(encoders.encode_png(encoders.enlarged(middle, large), caption))
            case ArtifactKind.SHEET:
                size = contact_sheet.write(path, pictures(range(len(shown))), _labels(claim), _note(claim), caption)
            case ArtifactKind.ZIP:
                encoders.write_zip(path, files())
        return UploadedArtifact(kind, _upload(lease, kind, path), *size)

    if spec.large and not spec.large_size:
        omissions.append(f"There are no large files, since the frames have {height} lines.")
    kinds = [kind for kind in FILES if spec.large_size or kind not in ENLARGED]
    return lease.run_concurrently(make, kinds), sorted(omissions)


def _labels(claim: Claim) -> list[str]:
    """Return the label of each frame on the contact sheet: its position, and the prompt if it is a stop."""
    stops = claim.spec.stops
    labels = []
    for frame in claim.frames:
        number, t = leg(frame.position, claim.spec.legs)
        stop = stops[number + int(t)] if t in {0, 1} else ""
        labels.append(f"{frame.position:.3f} {'(replaced) ' if frame.flagged else ''}{stop}".rstrip())
    return labels


def _note(claim: Claim) -> str:
    """Return the settings of a walk in one line."""
    spec = claim.spec
    seeds = f"seeds {', '.join(map(str, spec.seeds))}" if spec.seeds else f"seed {spec.seed}"
    settings = f"{seeds} · {spec.steps} steps · guidance {spec.guidance:g} · {claim.model}"
    return f"{len(claim.frames)} frames · {settings}"


def _download(lease: Lease, folder: Path) -> tuple[dict[float, Fetched], list[float]]:
    """Download the frames of a walk into a folder.

    Returns the frames that may be shown, by position, and the positions of frames that are missing or damaged.
    """
    spec = lease.claim.spec
    capacity = CACHE_BYTES // (3 * spec.width * spec.height)

    def fetch(index: int, frame: ClaimedFrame) -> Fetched | None:
        if frame.stored is None:
            return None
        path = folder / f"{index:03}.png"
        try:
            data = bucket.read(frame.stored, check=lease.checkpoint)
            picture = encoders.decode_png(data)
        except ObjectCorruptError as error:
            log.warning("frame missing or damaged", position=frame.position, reason=str(error))
            return None
        path.write_bytes(data)
        return Fetched(path, picture if index < capacity else None)

    shown = [frame for frame in lease.claim.frames if frame.flagged is None]
    found = dict(zip(shown, lease.run_concurrently(fetch, range(len(shown)), shown), strict=True))
    fetched = {frame.position: file for frame, file in found.items() if file is not None}
    return fetched, [frame.position for frame in shown if frame.position not in fetched]


def _upload(lease: Lease, kind: ArtifactKind, path: Path) -> StoredObject:
    """Upload an artifact; browsers save it under a file name made of the prompts."""
    name, content_type = FILES[kind]
    claim = lease.claim
    title = file_name(claim.spec.prompts, claim.walk_id)
    if kind in ENLARGED:
        title += f"-enlarged-from-{claim.spec.height}"
    return bucket.upload(
        bucket.artifact_name(claim.walk_id, claim.secret, name),
        path,
        content_type,
        download_as=None if kind in STILLS else f"{title}{path.suffix}",
        check=lease.checkpoint,
        confirm=lease.verify,
    )
