"""Messages from a worker's child to its parent: one JSON object per line, through a pipe.

A line shorter than PIPE_BUF is written whole or not at all, even if the child dies; and a pipe leaves no files
behind (`docs/decisions/0014-monitoring.md`).
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any


class MessagePipe:
    """A pipe that is created before the fork: the child sends, the parent receives."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)  # losing a message is better than waiting for the reader

    def send(self, **message: Any) -> None:
        """Send a message; it is dropped if the pipe is full."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, json.dumps(message).encode() + b"\n")

    def receive(self) -> Iterator[dict[str, Any]]:
        """Yield messages as they arrive, until all senders have closed the pipe."""
        with os.fdopen(self._read) as lines:
            for line in lines:
                yield json.loads(line)

    def close_sender(self) -> None:
        """Close the end that sends, in this process."""
        os.close(self._write)
