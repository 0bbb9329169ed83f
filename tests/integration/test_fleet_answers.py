"""What the workers of several GPUs answer to the process that started them; they are stand-ins."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Thread

import pytest

from worker.process.fleet import Member, Metrics


@contextmanager
def member(gpu: str, answer: Callable[[], tuple[int, str]]) -> Iterator[Member]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        yield Member(gpu, server.server_port)
        server.shutdown()


def figures(*members: Member) -> dict[tuple[str, str], float]:
    found = (sample for family in Metrics(members).collect() for sample in family.samples)
    return {(sample.name, sample.labels["gpu"]): sample.value for sample in found}


@pytest.mark.parametrize(("status", "text"), [(503, "momalisa_frames 3\n"), (200, "<html>")])
def test_a_worker_without_metrics_is_not_ready_and_hides_no_other(status: int, text: str) -> None:
    with (
        member("a", lambda: (status, text)) as broken,
        member("b", lambda: (200, "momalisa_frames 3\n")) as working,
    ):
        assert figures(broken, working) == {("momalisa_worker_ready", "a"): 0, ("momalisa_frames", "b"): 3}


def test_all_workers_are_asked_at_once() -> None:
    together = Barrier(2)

    def answer() -> tuple[int, str]:
        together.wait(10)
        return 200, "momalisa_frames 3\n"

    with member("a", answer) as one, member("b", answer) as other:
        assert figures(one, other) == {("momalisa_frames", "a"): 3, ("momalisa_frames", "b"): 3}
