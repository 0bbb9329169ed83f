"""What the process that works tells the one that answers for it."""

import json
import os
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from momalisa.telemetry import metrics
from worker.process import pulse


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The unread end."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    monkeypatch.setattr(pulse, "_pipe", (read, write))
    yield read
    os.close(write)
    os.close(read)


def test_nobody_who_works_waits_for_who_reads_and_no_line_is_torn(pipe: int) -> None:
    for _ in range(20_000):
        pulse._write(3, 0.123456789, {"kind": "render"})
    lines = os.read(pipe, 1 << 20).decode().splitlines()
    assert 1000 < len(lines) < 20_000
    assert {json.dumps(json.loads(line)) for line in lines} == {'[3, 0.123456789, {"kind": "render"}]'}


def test_what_is_told_is_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, float, dict[str, str]]] = []
    monkeypatch.setattr(metrics, "_forward", lambda *figure: sent.append(figure))
    registry = CollectorRegistry()
    kinds = (metrics.CHUNK_SECONDS, metrics.FRAMES_RENDERED, metrics.GPU_MEMORY_BYTES)
    for metric in kinds:
        registry.register(metric)
    names = [
        ("momalisa_chunk_seconds_sum", {"kind": "render"}),
        ("momalisa_frames_rendered_total", {}),
        ("momalisa_gpu_memory_bytes", {"state": "peak"}),
    ]
    before = [registry.get_sample_value(*name) or 0 for name in names]
    metrics.record(metrics.CHUNK_SECONDS, 2.5, kind="render")
    metrics.record(metrics.FRAMES_RENDERED, 8)
    metrics.record(metrics.GPU_MEMORY_BYTES, 7, state="peak")
    assert [registry.get_sample_value(*name) or 0 for name in names] == before
    for number, value, labels in json.loads(json.dumps(sent)):
        metrics.apply(number, value, labels)
    after = [registry.get_sample_value(*name) or 0 for name in names]
    assert after == [before[0] + 2.5, before[1] + 8, 7]
