"""The oracle: reads the database, the bucket and the API from outside, and reports what is wrong.

It shares no code with the product: it has its own queries, checksums and decoders.
"""

import base64
import hashlib
import io
import json
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import av
import google_crc32c
import httpx
from PIL import Image

from tests.chaos.stage import LEASE_SECONDS, Stage

HTTP = httpx.Client(timeout=60)

RANK = {"queued": 0, "running": 1, "assembling": 2, "succeeded": 3, "failed": 3, "canceled": 3}
ARTIFACTS = {
    "gif": "walk.gif",
    "mp4": "walk.mp4",
    "webp": "walk.webp",
    "poster": "poster.webp",
    "card": "card.jpg",
    "sheet": "sheet.png",
    "zip": "walk.zip",
}


NEEDED = {"PostgreSQL", "PgBouncer", "broker", "reconciler"}
"""The parts that recovery needs."""

Injected = tuple[str, datetime, datetime]
"""The part that a fault hit, with its start and end."""


@dataclass
class Verdict:
    """The result of a run."""

    walks: Counter[str]
    """By final state."""
    frames_needed: int
    frames_rendered: int
    recoveries: list[float]
    """Seconds from the end of each fault until a walk made progress."""
    lost: list[float]
    """Seconds from the loss of a worker until its chunk was claimed again."""
    lost_alone: list[float]
    """The same, without those during which a part that recovery needs was down."""
    wrongs: list[str]

    @property
    def wasted(self) -> float:
        """Frames rendered but not needed, as a share of the frames needed."""
        return self.frames_rendered / max(self.frames_needed, 1) - 1

    def lines(self) -> Iterator[str]:
        """Return the figures as rows of a table."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.walks.items()))
        yield f"| walks | {self.walks.total()}: {states} |"
        yield f"| frames rendered ÷ frames needed | {self.frames_rendered} ÷ {self.frames_needed} |"
        yield f"| wasted work | {self.wasted:.1%} |"
        yield f"| fault to next progress | {_spread(self.recoveries)} |"
        yield f"| lost worker to its chunk taken up again | {_spread(self.lost)} |"
        yield f"| the same, while {', '.join(sorted(NEEDED))} were up | {_spread(self.lost_alone)} |"
        yield f"| a lease | {LEASE_SECONDS:.0f} s |"
        yield f"| wrong | {len(self.wrongs)} |"


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return (
        f"p50 {statistics.median(ordered):.1f} s, p95 {p95:.1f} s, max {ordered[-1]:.1f} s ({len(ordered)} times)"
    )


Reference = dict[int, dict[str, str]]
"""For each order, the digest of each frame (by position) and artifact (by kind) of a walk without faults."""


def reference(stage: Stage, walks: dict[int, str]) -> Reference:
    """Return the digests of walks without faults."""
    return {order: _digests(stage, walk_id) for order, walk_id in walks.items()}


def judge(stage: Stage, expected: Reference, faults: list[Injected]) -> Verdict:
    """Check everything that a run left behind."""
    diary = stage.diary
    wrongs = list(diary.wrongs)
    walks = {row[0]: row[1] for row in stage.rows("SELECT id::text, status FROM walks")}
    objects = dict(_objects(stage))
    lost = diary.accepted.keys() - walks.keys() - diary.removed
    wrongs += [f"walk {walk_id} was accepted and is lost" for walk_id in lost]
    known = walks.keys() | diary.removed
    for walk_id, status in walks.items():
        wrongs += _wrongs_of_walk(stage, walk_id, status, objects)
        if status == "succeeded" and walk_id in diary.accepted:
            found, wanted = _digests(stage, walk_id), expected[diary.accepted[walk_id]]
            wrongs += [f"walk {walk_id}: {name} differs" for name in wanted if found.get(name) != wanted[name]]
    for walk_id, seen in diary.seen.items():
        ranks = [RANK[status] for status in seen]
        if ranks != sorted(set(ranks)):
            wrongs.append(f"walk {walk_id} went backwards: {seen}")
    wrongs += [f"object {name} belongs to no walk" for name in objects if name.split("/")[1] not in known]
    open_chunks = stage.rows("SELECT count(*) FROM chunks WHERE status IN ('queued', 'leased')")
    if open_chunks != [(0,)]:
        wrongs.append(f"{open_chunks[0][0]} chunks are still open")
    needed, rendered = _work(stage)
    taken_up = _reclaimed(stage)
    outages = [(start, end) for part, start, end in faults if part in NEEDED]
    alone = [(at, back) for at, back in taken_up if not any(start < back and at < end for start, end in outages)]
    return Verdict(
        walks=Counter(walks.values()),
        frames_needed=needed,
        frames_rendered=rendered,
        recoveries=_progress(stage, faults),
        lost=[(back - at).total_seconds() for at, back in taken_up],
        lost_alone=[(back - at).total_seconds() for at, back in alone],
        wrongs=wrongs,
    )


def _wrongs_of_walk(stage: Stage, walk_id: str, status: str, objects: dict[str, dict[str, Any]]) -> list[str]:
    diary = stage.diary
    wrongs = []
    allowed = {"succeeded"}
    if walk_id in diary.canceled:
        allowed = {"canceled", "succeeded"}
    if walk_id in diary.poisoned:
        allowed = {"failed", "canceled"} if walk_id in diary.canceled else {"failed"}
    if status not in allowed:
        [(code, message)] = stage.rows("SELECT error_code, error_message FROM walks WHERE id = %s", walk_id)
        errors = stage.rows("SELECT number, kind, attempts, error FROM chunks WHERE walk_id = %s", walk_id)
        wrongs.append(f"walk {walk_id} is {status}, not {sorted(allowed)}: {code}, {message}, {errors}")
    frames = stage.rows("SELECT position, object, bytes, crc32c FROM frames WHERE walk_id = %s", walk_id)
    recorded = {name: (size, crc32c) for _, name, size, crc32c in frames if name is not None}
    for name, (size, crc32c) in recorded.items():
        there = objects.get(name)
        if there is None:
            if status != "canceled":
                wrongs.append(f"walk {walk_id}: {name} is recorded but not there")
        elif status == "succeeded" and (int(there["size"]), there["crc32c"]) != (size, crc32c):
            wrongs.append(f"walk {walk_id}: {name} is not what was recorded")
    [(secret,)] = stage.rows("SELECT secret FROM walks WHERE id = %s", walk_id)
    owned = {f"walks/{walk_id}/{secret}/frames/{position:.9f}.png" for position, *_ in frames}
    owned |= {f"walks/{walk_id}/{secret}/{name}" for name in ARTIFACTS.values()}
    mine = {name for name in objects if name.startswith(f"walks/{walk_id}/")}
    wrongs += [f"object {name} belongs to no walk" for name in mine - owned]
    if status == "succeeded":
        [(total, done)] = stage.rows("SELECT frames_total, frames_done FROM walks WHERE id = %s", walk_id)
        positions = sorted(position for position, *_ in frames)
        [(loop,)] = stage.rows("SELECT spec ->> 'loop' FROM walks WHERE id = %s", walk_id)
        whole = positions[0] == 0 and (positions[-1] < 1 if loop == "closed" else positions[-1] == 1)
        if not total == done == len(recorded) == len(set(positions)) or not whole:
            wrongs.append(f"walk {walk_id} has {len(recorded)} of {total} frames and says {done}")
        if mine != owned:
            wrongs.append(f"walk {walk_id} lacks {sorted(owned - mine)}")
    seen = HTTP.get(f"{stage.url}/v1/walks/{walk_id}").json()
    if (seen["status"], seen["done"]) != (status, True):
        wrongs.append(f"walk {walk_id} is {status}, but the API says {seen['status']}")
    return wrongs


def _digests(stage: Stage, walk_id: str) -> dict[str, str]:
    """Return the digest of each frame and artifact of a succeeded walk, by the URLs of the API."""
    walk = HTTP.get(f"{stage.url}/v1/walks/{walk_id}").json()
    found = {}
    for frame in walk["frames"]:
        data = _download(stage, frame["url"])
        with Image.open(io.BytesIO(data)) as image:
            found[f"frame {frame['position']:.6f}"] = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
    for kind, artifact in walk["artifacts"].items():
        data = _download(stage, artifact["url"])
        if kind == "gif":
            with Image.open(io.BytesIO(data)) as image:
                assert getattr(image, "n_frames", 1) == len(walk["sequence"]), f"the GIF of {walk_id}"
        if kind == "mp4":
            with av.open(io.BytesIO(data), "r") as video:
                assert len(list(video.decode(video=0))) == len(walk["sequence"]), f"the MP4 of {walk_id}"
        found[kind] = hashlib.sha256(data).hexdigest()
    return found


def _download(stage: Stage, url: str) -> bytes:
    name = url.partition("/momalisa/")[2]
    return HTTP.get(f"{stage.bucket_url}/momalisa/{name}").raise_for_status().content


def _objects(stage: Stage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object with its size and the checksum of its actual bytes."""
    token = None
    while True:
        parameters = {"maxResults": "500", **({"pageToken": token} if token else {})}
        page = HTTP.get(f"{stage.bucket_url}/storage/v1/b/momalisa/o", params=parameters).json()
        for item in page.get("items", []):
            data = HTTP.get(f"{stage.bucket_url}/momalisa/{item['name']}").content
            crc32c = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
            yield item["name"], {"size": len(data), "crc32c": crc32c}
        token = page.get("nextPageToken")
        if not token:
            return


def _events(stage: Stage) -> Iterator[dict[str, Any]]:
    """Yield the log events of the workers, part by part."""
    for log in sorted((stage.folder / "logs").glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue  # cut off by a kill


def _work(stage: Stage) -> tuple[int, int]:
    """Return the numbers of frames needed and claimed, for walks that were completed."""
    whole = {
        row[0]: row[1] for row in stage.rows("SELECT id::text, frames_total FROM walks WHERE status = 'succeeded'")
    }
    rendered = sum(
        event["frames"]
        for event in _events(stage)
        if event.get("message") == "chunk claimed" and event.get("kind") == "render" and event.get("walk") in whole
    )
    return sum(whole.values()), rendered


def _progress(stage: Stage, faults: list[Injected]) -> list[float]:
    """Return the seconds from each fault to the next finished chunk, by clocks that were not set."""
    done = sorted(
        datetime.fromisoformat(event["time"]) for event in _events(stage) if event.get("message") == "chunk done"
    )
    return [
        (min(later) - end).total_seconds()
        for _, _, end in faults
        if (later := [moment for moment in done if moment > end])
    ]


def _reclaimed(stage: Stage) -> list[tuple[datetime, datetime]]:
    """Return when each lost chunk was lost, and when it was claimed again or ended."""
    touched: dict[tuple[str, int], list[datetime]] = {}
    for event in _events(stage):
        if event.get("message") in {"chunk claimed", "chunk done"} and "walk" in event:
            moment = datetime.fromisoformat(event["time"])
            touched.setdefault((event["walk"], event["chunk"]), []).append(moment)
    return [
        (lost.at, min(later))
        for lost in stage.diary.lost
        if (later := [moment for moment in touched.get((lost.walk_id, lost.number), []) if moment > lost.at])
    ]
