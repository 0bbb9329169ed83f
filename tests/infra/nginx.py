"""NGINX as a program of this machine, for tests."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from momalisa.local.processes import Child

START_SECONDS = 30


def answers(url: str) -> bool:
    """Tell whether there is a server at a URL, and all is well with it."""
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def weaknesses(configuration: Path) -> list[dict[str, Any]]:
    """Return what gixy finds in a configuration."""
    # The visitor's own Host header is passed on: URLs are made of it, which he alone gets to see.
    gixy = [str(Path(sys.executable).parent / "gixy"), "--format", "json", "--skips", "host_spoofing"]
    output = subprocess.run([*gixy, configuration], check=False, stdout=subprocess.PIPE, text=True).stdout
    found: list[dict[str, Any]] = json.loads(output)
    return found


@contextmanager
def serving(configuration: Path, directives: str, url: str) -> Iterator[str]:
    """Run NGINX for the length of a block, which begins when the API behind its URL answers."""
    nginx = Child("nginx", ["nginx", "-c", str(configuration), "-g", directives], configuration.parent / "log")
    nginx.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/healthz"):
            assert nginx.ended() is None, nginx.last_lines()
            assert time.monotonic() < deadline, nginx.last_lines()
            time.sleep(0.05)
        yield url
    finally:
        nginx.signal_stop()
        nginx.wait_stopped(time.monotonic() + START_SECONDS)
