"""What a worker's child sends to its parent: its state and its metrics."""

import json
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from momalisa.telemetry import metrics
from worker.process.message_pipe import MessagePipe

MESSAGE = {"metric": "momalisa_chunk_seconds", "value": 0.123456789, "labels": {"kind": "render"}}


def test_the_sender_never_waits_and_no_message_is_torn() -> None:
    pipe = MessagePipe()
    for _ in range(20_000):
        pipe.send(**MESSAGE)
    pipe.close_sender()
    messages = list(pipe.receive())
    assert 500 < len(messages) < 20_000
    assert all(message == MESSAGE for message in messages)


@pytest.fixture
def forwarded() -> Iterator[list[tuple[str, float, dict[str, str]]]]:
    """What this process records, instead of recording it."""
    sent: list[tuple[str, float, dict[str, str]]] = []
    metrics.forward(lambda *sample: sent.append(sample))
    yield sent
    metrics.forward(None)


def test_forwarded_values_equal_recorded_ones(forwarded: list[tuple[str, float, dict[str, str]]]) -> None:
    registry = CollectorRegistry()
    kinds = (metrics.CHUNK_SECONDS, metrics.FRAMES_RENDERED, metrics.GPU_MEMORY_BYTES)
    for metric in kinds:
        registry.register(metric)
    names = [
        ("momalisa_chunk_seconds_sum", {"kind": "render", "model": "a"}),
        ("momalisa_frames_rendered_total", {"model": "a"}),
        ("momalisa_gpu_memory_bytes", {"state": "peak"}),
    ]
    before = [registry.get_sample_value(*name) or 0 for name in names]
    metrics.record(metrics.CHUNK_SECONDS, 2.5, kind="render", model="a")
    metrics.record(metrics.FRAMES_RENDERED, 8, model="a")
    metrics.record(metrics.GPU_MEMORY_BYTES, 7, state="peak")
    assert [registry.get_sample_value(*name) or 0 for name in names] == before
    for name, value, labels in json.loads(json.dumps(forwarded)):
        metrics.apply(name, value, labels)
    after = [registry.get_sample_value(*name) or 0 for name in names]
    assert after == [before[0] + 2.5, before[1] + 8, 7]
