"""What a worker does with a claimed chunk of frames: copy or render them, and upload them."""

import time
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from momalisa import jobs, results, storage
from momalisa.chunks import ClaimedFrame, Due
from momalisa.database import transaction
from momalisa.log import logger
from momalisa.results import FlaggedFrame, MadeFrame
from momalisa.settings import settings
from momalisa.spec import frame_key
from momalisa.tables import Flag
from worker import assembly
from worker.assembly import Picture
from worker.caption import frame_caption
from worker.lease import Lease, Record
from worker.signature import signature

if TYPE_CHECKING:
    from worker.renderer import Renderer

log = logger(__name__)


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
        dtype=settings().dtype,
        threads=settings().threads,
    )
    if folder := settings().compiled_folder:
        loaded.compile(settings().image_size, folder)
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
    made: list[MadeFrame | FlaggedFrame] = [frame for frame in copied.values() if frame is not None]
    if any(frame.missing for frame in rest):
        started = time.monotonic()
        rendering = renderer().render(claim.spec, [frame.position for frame in rest], lease.check)
        lease.rendered, lease.wanted = len(rest), sum(frame.missing for frame in rest)
        log.info("rendered", seconds=round(time.monotonic() - started, 3))

        def upload(frame: ClaimedFrame, picture: Picture, flag: Flag | None) -> MadeFrame | FlaggedFrame | None:
            if not frame.missing:
                return None
            if flag is not None:
                return FlaggedFrame(frame.position, flag)
            name = storage.frame_name(claim.walk_id, frame.position)
            data = assembly.encode_png(picture, frame_caption(claim.spec, claim.model, frame.position))
            stored = storage.put(name, data, "image/png", check=lease.check, confirm=lease.confirm)
            return MadeFrame(frame.position, stored, signature(picture), keys[frame])

        uploads = lease.at_once(upload, rest, rendering.pictures, rendering.flags)
        made += [frame for frame in uploads if frame is not None]

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
    missing = [frame for frame in known if frame.missing]
    copies = dict(zip(missing, lease.at_once(copy, missing), strict=True))
    log.info("frames taken over", frames=sum(made is not None for made in copies.values()))
    return {frame: copies.get(frame) for frame in known if frame.stored or copies[frame]}
