"""The oracle reports each violation; here, each one is produced by hand."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from momalisa.local import stack
from momalisa.local.processes import free_port
from tests.chaos import oracle
from tests.chaos.__main__ import _undisturbed
from tests.chaos.oracle import Reference, Verdict
from tests.chaos.stage import Diary, Stage, lacking

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Reference]]:
    """A system that has made each kind of walk without faults."""
    if lack := lacking():
        pytest.skip(lack)
    stage = Stage(tmp_path_factory.mktemp("calm"), port=free_port(), workers=1, seed=1, outage=1)
    with stack.started(stage):
        yield stage, oracle.reference(stage, _undisturbed(stage))
    stage.close_proxies()


@pytest.fixture
def judge(calm: tuple[Stage, Reference]) -> Callable[[], Verdict]:
    stage, reference = calm
    stage.diary = Diary(accepted={walk: order for walk, order in stage.diary.accepted.items() if walk != UNKNOWN})
    return lambda: oracle.judge(stage, reference, [])


@pytest.fixture
def stage(calm: tuple[Stage, Reference]) -> Stage:
    return calm[0]


def frame(stage: Stage) -> tuple[str, str]:
    """Return an object, and its URL in the bucket's API."""
    [(name,)] = stage.rows("SELECT object FROM frames ORDER BY object LIMIT 1")
    return name, f"{stage.bucket_url}/storage/v1/b/momalisa/o/{name.replace('/', '%2F')}"


def put(stage: Stage, name: str, data: bytes) -> None:
    url, parameters = f"{stage.bucket_url}/upload/storage/v1/b/momalisa/o", {"uploadType": "media", "name": name}
    httpx.post(url, params=parameters, content=data, headers={"Content-Type": "image/png"}).raise_for_status()


def test_a_calm_run_is_right(stage: Stage, judge: Callable[[], Verdict]) -> None:
    verdict = judge()
    assert verdict.wrongs == []
    assert verdict.walks == {"succeeded": 4}
    assert verdict.frames_rendered == verdict.frames_needed == 94
    assert stage.rows("SELECT count(*) > 0 FROM frames WHERE interpolated") == [(True,)]


@pytest.mark.parametrize(
    ("spoil", "mend", "wrong"),
    [
        ("UPDATE walks SET status = 'running'", "UPDATE walks SET status = 'succeeded'", "is running"),
        ("UPDATE walks SET status = 'failed'", "UPDATE walks SET status = 'succeeded'", "is failed"),
        ("UPDATE walks SET frames_done = 1", "UPDATE walks SET frames_done = frames_total", "frames and says 1"),
        (
            "UPDATE chunks SET status = 'queued', priority = 0, scheduled_at = now() + interval '4 minutes'"
            " WHERE number = 0",
            "UPDATE chunks SET status = 'done', priority = 1 WHERE number = 0",
            "chunks are still open",
        ),
        (
            "UPDATE frames SET crc32c = reverse(crc32c)",
            "UPDATE frames SET crc32c = reverse(crc32c)",
            "is not what was recorded",
        ),
    ],
)
def test_a_wrong_row_is_seen(stage: Stage, judge: Callable[[], Verdict], spoil: str, mend: str, wrong: str) -> None:
    stage.rows(spoil)
    try:
        assert any(wrong in found for found in judge().wrongs)
    finally:
        stage.rows(mend)
    assert judge().wrongs == []


def test_a_stray_object_is_seen(stage: Stage, judge: Callable[[], Verdict]) -> None:
    name, _ = frame(stage)
    stray = name.replace(".png", ".new.png")
    put(stage, stray, b"stray")
    assert judge().wrongs != []
    httpx.delete(f"{stage.bucket_url}/storage/v1/b/momalisa/o/{stray.replace('/', '%2F')}").raise_for_status()
    assert judge().wrongs == []


def test_a_walk_that_went_backwards_is_seen(stage: Stage, judge: Callable[[], Verdict]) -> None:
    walk_id = next(iter(stage.diary.accepted))
    stage.diary.seen[walk_id] = ["running", "queued", "succeeded"]
    assert any("went backwards" in wrong for wrong in judge().wrongs)


def test_a_lost_walk_is_seen(stage: Stage, judge: Callable[[], Verdict]) -> None:
    stage.diary.accepted[UNKNOWN] = 0
    assert any("is lost" in wrong for wrong in judge().wrongs)


def test_another_picture_is_seen(stage: Stage, judge: Callable[[], Verdict]) -> None:
    """A frame that is a valid and recorded picture, but not the right one."""
    name, url = frame(stage)
    [(other,)] = stage.rows("SELECT object FROM frames ORDER BY object DESC LIMIT 1")
    mine = httpx.get(url, params={"alt": "media"}).content
    put(stage, name, httpx.get(f"{stage.bucket_url}/momalisa/{other}").content)
    try:
        assert any("differs" in wrong for wrong in judge().wrongs)
    finally:
        put(stage, name, mine)
    assert judge().wrongs == []
