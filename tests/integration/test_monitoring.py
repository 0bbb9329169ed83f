"""Monitoring of a running system: `/metrics`, `/healthz` and `/readyz` of every part."""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from momalisa.client import Client
from momalisa.domain.states import ChunkKind
from momalisa.local import stack
from momalisa.local.processes import Child, free_port, is_free
from momalisa.local.stack import LocalStack
from momalisa.maintenance import reconciler
from momalisa.maintenance.reconciler import TaskHeartbeats
from momalisa.settings import ROOT, settings
from momalisa.telemetry import metrics
from tests.conftest import clear_caches, until
from worker.process.monitor import STUCK_SECONDS, Monitor, State, Status
from worker.process.worker import Worker

PARTS = {"api": 0, "reconciler": 1, "assemble-1": 2, "render-1": 3}
"""The ports of the parts, relative to the first."""


def free_ports(count: int) -> int:
    """Return the first of some consecutive free ports, which no outgoing connection takes before a part listens."""
    while True:
        first = 20_000 + secrets.randbelow(12_000)
        if all(is_free(first + place) for place in range(count)):
            return first


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    variables = {
        "METRICS_PORT": str(free_ports(len(PARTS))),
        "LEASE_SECONDS": "5",
        "RECONCILE_SECONDS": "0.5",
        "BATCH_SIZE": "4",
        "MOMALISA_VERSION": "1.2.3",
        "MOMALISA_REVISION": "abc1234",
    }
    folder = tmp_path_factory.mktemp("monitored")
    with stack.started(LocalStack(folder, port=free_port(), workers=1, variables=variables)) as system:
        yield system


def ask(system: LocalStack, part: str, path: str) -> httpx.Response:
    port = int(system.variables["METRICS_PORT"]) + PARTS[part]
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=10)


def figure(system: LocalStack, part: str, name: str, **labels: str) -> float:
    """Return a sample of a part's metrics, by its full name and some labels; 0 if there is none."""
    families = text_string_to_metric_families(ask(system, part, "/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def is_ready(system: LocalStack, part: str) -> bool:
    try:
        return ask(system, part, "/readyz").status_code == 200
    except httpx.ConnectError:
        return False  # it is not listening yet


def working_child(system: LocalStack) -> psutil.Process:
    process = system.children["render-1"].process
    assert process
    [child] = psutil.Process(process.pid).children()
    return child


def is_leased(system: LocalStack, walk_id: str) -> bool:
    """Return whether a worker holds a chunk of a walk; the gauge of leased chunks may be that of another walk."""
    address = system.variables["DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(address) as connection:
        query = "SELECT FROM chunks WHERE walk_id = %s AND status = 'leased'"
        return connection.execute(query, [walk_id]).fetchone() is not None


def make_walk(system: LocalStack, frames: int = 8, steps: int = 2) -> str:
    with Client(system.url) as client:
        walk = client.submit(["a giraffe", "a battleship"], frames=frames, seed=7, steps=steps, pacing="linear")
    return walk["id"]


def finished(system: LocalStack, walk_id: str) -> bool:
    with Client(system.url) as client:
        return client.get(walk_id)["status"] == "succeeded"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_becomes_ready_and_is_alive(monitored: LocalStack, part: str) -> None:
    until(lambda: is_ready(monitored, part))
    assert ask(monitored, part, "/healthz").text == "ok\n"
    assert ask(monitored, part, "/").status_code == 404


def test_every_part_says_which_build_it_is_and_workers_whether_they_are_ready(monitored: LocalStack) -> None:
    build = {"version": "1.2.3", "revision": "abc1234"}
    assert [figure(monitored, part, "momalisa_build_info", **build) for part in PARTS] == [1] * len(PARTS)
    for part, kind in (("render-1", "render"), ("assemble-1", "assemble")):
        until(lambda part=part: is_ready(monitored, part))  # type: ignore[misc]
        assert figure(monitored, part, "momalisa_worker_ready") == 1
        until(lambda kind=kind: figure(monitored, "reconciler", "momalisa_workers", kind=kind) == 1)  # type: ignore[misc]


def test_the_public_port_serves_no_metrics(monitored: LocalStack) -> None:
    assert httpx.get(f"{monitored.url}/metrics", trust_env=False).status_code == 404


def test_a_walk_shows_in_the_metrics_of_all_parts(monitored: LocalStack) -> None:
    until(lambda: is_ready(monitored, "render-1"))
    frames = figure(monitored, "render-1", "momalisa_frames_rendered_total")
    wasted = figure(monitored, "render-1", "momalisa_frames_wasted_total")
    chunks = figure(monitored, "render-1", "momalisa_chunk_seconds_count", kind="render")
    walk_id = make_walk(monitored)
    until(lambda: finished(monitored, walk_id))
    until(lambda: figure(monitored, "render-1", "momalisa_frames_rendered_total") == frames + 8)
    until(lambda: figure(monitored, "render-1", "momalisa_chunk_seconds_count", kind="render") == chunks + 2)
    assert figure(monitored, "render-1", "momalisa_frames_wasted_total") == wasted
    until(lambda: figure(monitored, "assemble-1", "momalisa_chunk_seconds_count", kind="assemble") >= 1)
    submitted = {"method": "POST", "route": "/v1/walks", "status": "202"}
    assert figure(monitored, "api", "momalisa_http_requests_total", **submitted) >= 1
    polled = {"method": "GET", "route": "/v1/walks/{walk_id}"}
    assert figure(monitored, "api", "momalisa_http_request_seconds_count", **polled) >= 1
    until(lambda: figure(monitored, "reconciler", "momalisa_walks_last_hour", status="succeeded") >= 1)
    until(lambda: figure(monitored, "reconciler", "momalisa_walks") == 0)
    assert figure(monitored, "assemble-1", "momalisa_walk_seconds_count", status="succeeded") >= 1
    assert figure(monitored, "render-1", "momalisa_first_frame_seconds_count") >= 1
    assert figure(monitored, "render-1", "momalisa_bucket_request_seconds_count", method="POST", status="200") >= 8


@pytest.fixture
def prometheus(monitored: LocalStack, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Query a Prometheus with our configuration, except for the targets and the interval."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not here; Debian has it in the package of that name")
    infra = ROOT / "infra" / "prometheus"
    config = yaml.safe_load((infra / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(infra / name) for name in config["rule_files"]]
    [job] = config["scrape_configs"]
    assert job["dns_sd_configs"]
    assert job["relabel_configs"]
    first = int(monitored.variables["METRICS_PORT"])
    config["scrape_configs"] = [
        {
            "job_name": job["job_name"],
            "static_configs": [
                {"targets": [f"127.0.0.1:{first + place}"], "labels": {"part": part}}
                for part, place in PARTS.items()
            ],
        }
    ]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    server = Child("prometheus", [*command, f"--web.listen-address={address}"], tmp_path / "log")
    server.start()

    def ask(path: str, **parameters: str) -> Any:
        answer = httpx.get(f"http://{address}/api/v1/{path}", params=parameters, trust_env=False)
        return answer.raise_for_status().json()["data"]

    def answers() -> bool:
        assert server.ended() is None, server.last_lines()
        try:
            return bool(ask("status/runtimeinfo"))
        except (httpx.ConnectError, httpx.HTTPStatusError):
            return False

    try:
        until(answers)
        yield ask
    finally:
        server.signal_stop()
        server.wait_stopped(time.monotonic() + 30)


def test_prometheus_scrapes_all_parts_and_every_panel_has_data(
    monitored: LocalStack, prometheus: Callable[..., Any]
) -> None:
    def values(query: str) -> Any:
        return prometheus("query", query=query.replace("$__rate_interval", "1m"))["result"]

    def empty() -> set[str]:
        return {
            panel["title"] for panel in panels if not all(values(target["expr"]) for target in panel["targets"])
        }

    [dashboard] = (ROOT / "infra" / "grafana" / "dashboards").glob("*.json")
    panels = json.loads(dashboard.read_text())["panels"]
    until(lambda: {part["metric"]["part"] for part in values("up == 1")} == set(PARTS))
    walk_id = make_walk(monitored)
    until(lambda: finished(monitored, walk_id))
    until(lambda: empty() == {"GPU memory"})  # there is none here

    def states(key: str) -> set[str]:
        rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
        return {rule[key] for rule in rules if key in rule}

    assert states("health") == {"ok"}
    until(lambda: states("state") == {"inactive"})  # a scrape that took too long makes PartDown pending


def test_unknown_paths_and_methods_create_no_new_series(monitored: LocalStack) -> None:
    before = figure(monitored, "api", "momalisa_http_requests_total", route="unknown", method="other")
    for number, method in enumerate(("PURGE", "MKCOL", "SUBSCRIBE")):  # which the server accepts
        httpx.request(method, f"{monitored.url}/made/up/{number}", trust_env=False)
    known = {"route": "unknown", "method": "other"}
    assert figure(monitored, "api", "momalisa_http_requests_total", **known) == before + 3
    text = ask(monitored, "api", "/metrics").text
    assert not {"made/up", "PURGE"} & set(re.findall(r"made/up|PURGE", text))


def test_long_polls_do_not_count_in_request_times(monitored: LocalStack) -> None:
    until(lambda: is_ready(monitored, "render-1"))
    walk_id = make_walk(monitored)
    until(lambda: finished(monitored, walk_id))
    route = {"route": "/v1/walks/{walk_id}"}
    before = figure(monitored, "api", "momalisa_http_request_seconds_count", **route)
    counted = figure(monitored, "api", "momalisa_http_requests_total", **route)
    httpx.get(f"{monitored.url}/v1/walks/{walk_id}", headers={"Prefer": "wait=1"}, trust_env=False)
    assert figure(monitored, "api", "momalisa_http_request_seconds_count", **route) == before
    assert figure(monitored, "api", "momalisa_http_requests_total", **route) == counted + 1


@pytest.mark.parametrize("successor_comes", ["at once", "after the lease has expired"])
def test_a_worker_is_not_ready_without_a_child_and_keeps_its_metrics(
    monitored: LocalStack, successor_comes: str
) -> None:
    def lost() -> float:
        """Return how many leases were lost. The successor counts its predecessor's unless it has expired."""
        name = "momalisa_leases_expired_total"
        return figure(monitored, "render-1", name) + figure(monitored, "reconciler", name)

    until(lambda: is_ready(monitored, "render-1"))
    frames = figure(monitored, "render-1", "momalisa_frames_rendered_total")
    recoveries = figure(monitored, "render-1", "momalisa_recovery_seconds_count")
    seconds = figure(monitored, "render-1", "momalisa_recovery_seconds_sum")
    lost_before, expired_before = lost(), figure(monitored, "reconciler", "momalisa_leases_expired_total")
    walk_id = make_walk(monitored, frames=8, steps=30)
    until(lambda: is_leased(monitored, walk_id))
    child = working_child(monitored)
    parent = child.parent()
    assert parent
    if successor_comes == "at once":
        child.kill()
    else:
        parent.suspend()
        child.kill()
        until(lambda: figure(monitored, "reconciler", "momalisa_leases_expired_total") > expired_before)
        parent.resume()
    reasons = {"The model is being loaded.\n", "No child process is running.\n"}
    until(lambda: ask(monitored, "render-1", "/readyz").text in reasons)
    assert ask(monitored, "render-1", "/healthz").status_code == 200  # it recovers
    until(lambda: is_ready(monitored, "render-1"))
    until(lambda: finished(monitored, walk_id), 120)
    until(lambda: figure(monitored, "render-1", "momalisa_frames_rendered_total") == frames + 8)
    until(lambda: lost() == lost_before + 1)
    assert figure(monitored, "render-1", "momalisa_recovery_seconds_count") == recoveries + 1
    assert figure(monitored, "render-1", "momalisa_recovery_seconds_sum") < seconds + 60


def test_gauges_disappear_while_postgresql_is_down_and_nothing_is_restarted(monitored: LocalStack) -> None:
    """While PostgreSQL is down, the API is not ready, gauges are absent, and all parts are alive."""
    until(lambda: "momalisa_walks{" in ask(monitored, "reconciler", "/metrics").text)
    postgres = monitored.children["postgres"]
    postgres.signal_stop()
    assert postgres.process
    postgres.process.wait(30)
    try:
        until(lambda: "momalisa_walks{" not in ask(monitored, "reconciler", "/metrics").text)
        failures = "momalisa_reconciler_task_failures_total"
        until(lambda: figure(monitored, "reconciler", failures, task="update_gauges") >= 1)
        assert ask(monitored, "api", "/readyz").status_code == 503
        assert [ask(monitored, part, "/healthz").status_code for part in PARTS] == [200] * len(PARTS)
    finally:
        postgres.start()
    until(lambda: is_ready(monitored, "api"))
    until(lambda: "momalisa_walks{" in ask(monitored, "reconciler", "/metrics").text)


def test_a_taken_metrics_port_ends_the_process_with_a_sentence(monitored: LocalStack) -> None:
    from momalisa.errors import PortTakenError  # noqa: PLC0415

    taken = monitored.variables["METRICS_PORT"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METRICS_PORT", taken)
        settings.cache_clear()
        with pytest.raises(PortTakenError, match=f"METRICS_PORT is {taken}"):
            metrics.serve([], alive=lambda: None, ready=lambda: None)
    settings.cache_clear()


@pytest.fixture
def monitor(worker: Worker) -> Monitor:
    """The monitor of a worker with a live child and consumer."""
    now = time.monotonic()
    worker.monitor.status = Status(pid=os.getpid(), state=State.READY, reported_at=now, consumer_ran_at=now)
    return worker.monitor


def test_a_silent_consumer_is_stuck_unless_the_broker_is_down(
    services: LocalStack, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert monitor.liveness_failure(ChunkKind.RENDER) is None
    monitor.status.consumer_ran_at = time.monotonic() - STUCK_SECONDS - 1
    assert "The consumer has not run" in (monitor.liveness_failure(ChunkKind.RENDER) or "")
    monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    clear_caches()
    assert monitor.liveness_failure(ChunkKind.RENDER) is None
    monkeypatch.setenv("BROKER_URL", services.variables["BROKER_URL"])
    clear_caches()
    # It has some time to notice that the broker is back.
    assert monitor.liveness_failure(ChunkKind.RENDER) is None


def test_a_worker_whose_child_holds_a_chunk_silently_is_stuck(monitor: Monitor) -> None:
    monitor.status.reported_at -= settings().stall_seconds + 1
    assert monitor.liveness_failure(ChunkKind.RENDER) is None  # there is nothing to do
    monitor.status.state = State.WORKING
    assert "has reported nothing" in (monitor.liveness_failure(ChunkKind.RENDER) or "")


def test_a_reconciler_with_a_hanging_task_is_unhealthy() -> None:
    heartbeats = TaskHeartbeats([reconciler.reclaim_expired, reconciler.publish_missing])
    assert heartbeats.not_ready()
    heartbeats.beat(0)
    heartbeats.beat(1)
    assert (heartbeats.not_ready(), heartbeats.hanging()) == (None, None)
    heartbeats.last_rounds[1] -= reconciler.HANG_SECONDS + 1
    assert "publish_missing" in (heartbeats.hanging() or "")
