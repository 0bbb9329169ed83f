"""Walks and their files as clients get them."""

import hashlib
from typing import Any

import httpx
from fastapi.testclient import TestClient

Reply = dict[str, Any]

SMALL: dict[str, Any] = {"prompts": ["a secret", "a boat"], "frames": 2, "width": 64, "height": 64, "seed": 7}
"""The settings of a walk whose files are made fast."""


def look(client: TestClient, walk_id: str) -> Reply:
    """Return a walk."""
    walk: Reply = client.get(f"/v1/walks/{walk_id}").raise_for_status().json()
    return walk


def urls(walk: Reply) -> list[str]:
    """Return the URLs of all files of a walk."""
    return [
        *(frame["url"] for frame in walk["frames"] if frame["url"]),
        *(artifact["url"] for artifact in walk["artifacts"].values()),
    ]


def checksums(walk: Reply) -> list[str]:
    """Return the checksums of the files of a walk, in order; all of them must exist."""
    files = [httpx.get(url).raise_for_status() for url in urls(walk)]
    return [hashlib.sha256(file.content).hexdigest() for file in files]


def statuses(addresses: list[str]) -> set[int]:
    """Return the distinct statuses of the answers to requests."""
    return {httpx.get(address).status_code for address in addresses}
