"""What a project and its caller may do, as Google's APIs tell it: permissions, quotas and types of machines."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.infra.google import Request

Json = dict[str, Any]

OF_ALL_REGIONS = {"CPUS_ALL_REGIONS", "GPUS_ALL_REGIONS", "NETWORKS"}
"""Quotas of the project; others are of a region."""

QUOTAS = {
    **dict.fromkeys(OF_ALL_REGIONS, 64.0),
    **dict.fromkeys(("CPUS", "INSTANCES", "IN_USE_ADDRESSES", "STATIC_ADDRESSES", "NVIDIA_L4_GPUS"), 64.0),
    "SSD_TOTAL_GB": 2000.0,
}
MACHINES: dict[str, Json] = {
    "e2-standard-4": {"guestCpus": 4},
    "g2-standard-8": {
        "guestCpus": 8,
        "accelerators": [{"guestAcceleratorType": "nvidia-l4", "guestAcceleratorCount": 1}],
    },
}


@dataclass
class Limits:
    """Plenty of everything, and every permission, unless a test takes some away."""

    quotas: dict[str, float] = field(default_factory=lambda: dict(QUOTAS))
    usage: Counter[str] = field(default_factory=Counter)
    machines: dict[str, Json] = field(default_factory=lambda: dict(MACHINES))
    forbidden: set[str] = field(default_factory=set)
    """Permissions that the caller does not have."""
    vertex_gpus: int = 8
    """How many GPUs Vertex AI may use in us-central1."""

    def answer(self, request: "Request") -> tuple[int, Json] | None:  # noqa: PLR0911 - a table
        """Answer a question about what may be done, or None."""
        if request.path.endswith(":testIamPermissions") and "/projects/" in request.path:
            asked = request.body["permissions"]
            granted = [permission for permission in asked if permission not in self.forbidden]
            return 200, {"permissions": granted} if granted else {}
        if request.method != "GET":
            return None
        if match := re.fullmatch(r"/compute/v1/projects/([^/]+)", request.path):
            return 200, {"name": match[1], "quotas": self._quotas(of_all=True)}
        if match := re.fullmatch(r"/compute/v1/projects/[^/]+/regions/([^/]+)", request.path):
            return 200, {"name": match[1], "status": "UP", "quotas": self._quotas(of_all=False)}
        if (match := re.search(r"/machineTypes/([^/]+)$", request.path)) and match[1] in self.machines:
            return 200, {"name": match[1], **self.machines[match[1]]}
        if match := re.search(r"/consumerQuotaMetrics/([^/]+)$", request.path):
            metric = match[1].replace("%2F", "/")
            buckets = [
                {"effectiveLimit": "0", "defaultLimit": "0"},
                {"effectiveLimit": str(self.vertex_gpus), "dimensions": {"region": "us-central1"}},
                {"effectiveLimit": "99", "dimensions": {"region": "europe-west4"}},
            ]
            return 200, {"metric": metric, "consumerQuotaLimits": [{"metric": metric, "quotaBuckets": buckets}]}
        return None

    def _quotas(self, *, of_all: bool) -> list[Json]:
        return [
            {"metric": metric, "limit": limit, "usage": float(self.usage[metric])}
            for metric, limit in self.quotas.items()
            if (metric in OF_ALL_REGIONS) == of_all
        ]
