"""Filters of tasks/preflight.yml: what a project lacks for a deployment, as sentences that say what to do."""

from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

Json = dict[str, Any]

CPUS_OF_ALL = {"e2", "f1", "g1", "g2", "n1"}
"""Families of machines whose vCPUs count as CPUS; others have a quota of their own, such as N2_CPUS."""

OF_ALL_REGIONS = {"CPUS_ALL_REGIONS", "GPUS_ALL_REGIONS", "NETWORKS"}
"""Quotas of the whole project; others are of a region."""


def machine_quotas(machine: Json | None, known: set[str]) -> Counter[str]:
    """Return what a machine of a type counts against, as compute's machineTypes.get describes the type."""
    if machine is None:
        return Counter()
    family = machine["name"].partition("-")[0]
    own = f"{family.upper()}_CPUS"
    cpus = own if family not in CPUS_OF_ALL and own in known else "CPUS"
    needed = Counter({cpus: machine["guestCpus"], "CPUS_ALL_REGIONS": machine["guestCpus"]})
    for accelerator in machine.get("accelerators", []):
        count = accelerator["guestAcceleratorCount"]
        model = accelerator["guestAcceleratorType"].replace("tesla-", "").replace("-", "_").upper()
        needed += Counter({f"{model}_GPUS": count, "GPUS_ALL_REGIONS": count})
    return needed


@dataclass(frozen=True)
class Need:
    """A quota that something counts against."""

    metric: str
    spot: bool = False
    """Whether a Spot machine needs it: for those, another quota counts if the project has it."""
    ceiling: bool = False
    """Whether only the limit has to be high enough, since what needs it comes and goes."""

    def lack(self, amount: int, quotas: dict[str, Json], region: str, project: str) -> str | None:
        """Return a sentence if there is less of it."""
        names = [f"PREEMPTIBLE_{self.metric}", self.metric] if self.spot else [self.metric]
        known = [quotas[name] for name in names if name in quotas]
        used = [0 if self.ceiling else quota["usage"] for quota in known]
        free = max((quota["limit"] - use for quota, use in zip(known, used, strict=True)), default=amount)
        if free >= amount:
            return None
        place = "all regions" if self.metric in OF_ALL_REGIONS else region
        name, limit = known[0]["metric"], known[0]["limit"]
        return (
            f"Of {name} in {place}, {amount:g} are needed, and {free:g} of {limit:g} are free. "
            f"Ask for {used[0] + amount:g} at https://console.cloud.google.com/iam-admin/quotas?project={project}"
        )


def lacking_quotas(wants: list[Json], answers: list[Json], project: str, zone: str) -> list[str]:
    """Return a sentence for each quota that is too small for what is not there yet.

    Args:
        wants: what a deployment makes: `url`, where it is once it is made; `quotas`, what it counts against;
            `machine`, a type of machine that it has, with `count` of them, and whether they are `spot`; `ceiling`,
            see Need.
        answers: what Google answered for each URL, as Ansible's uri registers it.
        project: its id.
        zone: where machines are.
    """
    found = {answer["item"]: answer["json"] for answer in answers if answer["status"] == HTTPStatus.OK}
    quotas = {quota["metric"]: quota for body in found.values() for quota in body.get("quotas", [])}
    machines = {url.rpartition("/")[2]: body for url, body in found.items() if "/machineTypes/" in url}
    needed: Counter[Need] = Counter()
    for want in wants:
        there = found.get(want.get("url", ""))
        if there and there.get("status") != "TERMINATED":
            continue
        count, ceiling = int(want.get("count", 1)), want.get("ceiling", False)
        for metric, amount in want.get("quotas", {}).items():
            needed[Need(metric, ceiling=ceiling)] += int(amount)
        for metric, amount in machine_quotas(machines.get(want.get("machine", "")), set(quotas)).items():
            spot = want.get("spot", False) and metric not in OF_ALL_REGIONS
            needed[Need(metric, spot, ceiling)] += count * amount
    region = zone.rpartition("-")[0]
    lacks = [need.lack(amount, quotas, region, project) for need, amount in needed.items()]
    unknown = {
        url.rpartition("/")[2]
        for url in (answer["item"] for answer in answers if answer["status"] == HTTPStatus.NOT_FOUND)
        if "/machineTypes/" in url
    }
    return [
        f"There is no {name} in {zone}. Set `zone` to one of: "
        f"gcloud compute machine-types list --project={project} --filter=name={name}"
        for name in sorted(unknown)
    ] + [lack for lack in lacks if lack]


def lacking_vertex_quota(answer: Json, wanted: int, project: str, region: str) -> list[str]:
    """Return a sentence if Vertex AI may not use as many GPUs, by what Service Usage answered about that metric."""
    limits = [
        bucket
        for limit in answer.get("json", {}).get("consumerQuotaLimits", [])
        for bucket in limit.get("quotaBuckets", [])
        if bucket.get("dimensions", {}).get("region", region) == region
    ]
    # The most specific one is last. -1 means that there is no limit.
    limit = int(limits[-1].get("effectiveLimit", 0)) if limits else -1
    if limit in range(wanted):
        return [
            f"Of {answer['json']['metric']} in {region}, {wanted} are needed, and the limit is {limit}. "
            f"Ask for {wanted} at https://console.cloud.google.com/iam-admin/quotas?project={project}"
        ]
    return []


def lacking_roles(roles: dict[str, list[str]], answer: Json, project: str) -> list[str]:
    """Return a sentence for each role whose permissions the caller lacks, by what testIamPermissions answered."""
    if answer["status"] != HTTPStatus.OK:
        message = answer.get("json", {}).get("error", {}).get("message", answer["status"])
        return [
            f"Google does not say what you may do in the project {project}: {message} "
            "Is its name right, and did you log in with the right account, by gcloud auth login?"
        ]
    granted = set(answer["json"].get("permissions", []))
    return [
        f"You may not use {', '.join(missing)}. Ask an owner of the project for {role}: "
        f"gcloud projects add-iam-policy-binding {project} --member=user:YOU --role={role}"
        for role, permissions in roles.items()
        if (missing := [permission for permission in permissions if permission not in granted])
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> Json:
        """Return the filters by name."""
        return {
            "lacking_quotas": lacking_quotas,
            "lacking_roles": lacking_roles,
            "lacking_vertex_quota": lacking_vertex_quota,
        }
