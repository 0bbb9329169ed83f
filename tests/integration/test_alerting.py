"""From a rule that fires to a message: our rules in a real Prometheus, our routes in a real Alertmanager."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from momalisa.local.processes import Child, free_port
from momalisa.settings import ROOT
from tests.conftest import until
from tests.serving import serving

INFRA = ROOT / "infra" / "prometheus"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["alertmanager"]


def need(*programs: str) -> None:
    if any(shutil.which(program) is None for program in programs):
        pytest.skip(
            f"{' and '.join(programs)} are needed; Debian's prometheus and prometheus-alertmanager have them"
        )


def configuration(url: str, folder: Path) -> Path:
    """Write Alertmanager's configuration as the container's entry point does, to a folder instead of /tmp."""
    shell, options, script = COMPOSE["entrypoint"]
    prepare = script.replace("$$", "$").partition("exec ")[0]
    prepare = prepare.replace("/etc/alertmanager", str(INFRA)).replace("/tmp", str(folder))  # noqa: S108
    subprocess.run([shell, options, prepare], env={"ALERT_SLACK_URL": url, "PATH": "/usr/bin:/bin"}, check=True)
    written = folder / "alertmanager.yml"
    written.write_text(written.read_text().replace("/tmp/", f"{folder}/"))  # noqa: S108
    return written


@pytest.mark.parametrize(("url", "receiver"), [("", "none"), ("https://hooks.example/T0/B0?a=b&c", "slack")])
def test_one_variable_decides_who_receives_alerts(url: str, receiver: str, tmp_path: Path) -> None:
    need("amtool")
    written = configuration(url, tmp_path)
    assert (tmp_path / "slack-url").read_text() == url
    check = subprocess.run(["amtool", "check-config", written], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    route = ["amtool", "config", "routes", "test", f"--config.file={written}", "severity=page"]
    assert subprocess.run(route, capture_output=True, text=True, check=True).stdout.strip() == receiver


@contextmanager
def slack() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Receive messages as Slack does; gives the URL, and the messages as they come."""
    messages: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield f"{url}/services/T0/B0", messages


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    program = Child(command[0], command, log)
    program.start()
    try:
        yield
    finally:
        program.signal_stop()
        program.wait_stopped(time.monotonic() + 30)


def test_a_part_that_is_gone_is_told_with_what_it_means_and_where_to_read_on(tmp_path: Path) -> None:
    need("prometheus", "prometheus-alertmanager")
    rules = yaml.safe_load((INFRA / "alerts.yml").read_text())
    [rule] = [rule for group in rules["groups"] for rule in group["rules"] if rule.get("alert") == "PartDown"]
    rule["for"] = "0s"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    alertmanager, gone = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = yaml.safe_load((INFRA / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    targets = [{"targets": [gone], "labels": {"part": "api"}}]
    config["scrape_configs"] = [{"job_name": config["scrape_configs"][0]["job_name"], "static_configs": targets}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with slack() as (url, messages):
        routes = configuration(url, tmp_path)
        routes.write_text(routes.read_text().replace("group_wait: 30s", "group_wait: 0s"))
        notifier = ["prometheus-alertmanager", f"--config.file={routes}", f"--storage.path={tmp_path}/alerts"]
        notifier += [f"--web.listen-address={alertmanager}", "--cluster.listen-address="]
        watcher = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        watcher += [f"--web.listen-address=127.0.0.1:{free_port()}"]
        with running(notifier, tmp_path / "alertmanager.log"), running(watcher, tmp_path / "prometheus.log"):
            until(lambda: messages)
    [message] = messages[0]["attachments"]
    assert message["title"] == "FIRING (page): PartDown"
    assert message["title_link"] == rule["annotations"]["runbook_url"]
    assert f"api at {gone} does not answer." in message["text"]
    assert rule["annotations"]["description"] in message["text"]
