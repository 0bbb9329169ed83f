import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Event, Thread

import av
import pytest
from PIL import Image

from momalisa.client import Client
from momalisa.local.processes import free_port
from momalisa.local.stack import LocalStack
from momalisa.settings import ROOT, environment


def momalisa(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return momalisa_in(ROOT, *arguments, **variables)


def momalisa_in(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "momalisa", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_walk_is_saved_as_a_gif_and_an_mp4(system: LocalStack, tmp_path: Path) -> None:
    out = tmp_path / "cat.gif"
    run = momalisa("walk", "a cat", "a castle", "--frames=6", "--seed=3", f"--out={out}", f"--url={system.url}")
    assert run.returncode == 0, run.stderr
    assert "6/6" in run.stdout
    assert str(out) in run.stdout.replace("\n", "")
    with Image.open(out) as gif:
        assert (gif.format, getattr(gif, "n_frames", 1), gif.size) == ("GIF", 6, (128, 128))
    with av.open(str(out.with_suffix(".mp4"))) as video:
        assert len(list(video.decode(video=0))) == 6


def test_files_have_names_of_their_own_and_overwrite_none(system: LocalStack, tmp_path: Path) -> None:
    options = ["--frames=2", "--steps=1", f"--url={system.url}"]
    for seed in (1, 2):
        run = momalisa_in(tmp_path, "walk", "猫", "犬", f"--seed={seed}", *options)
        assert run.returncode == 0, run.stderr
    found = Counter(path.name[:7] + path.suffix for path in tmp_path.iterdir())
    assert found == {"猫-to-犬-.gif": 2, "猫-to-犬-.mp4": 2}

    mine = tmp_path / "holiday.mp4"
    mine.write_text("mine")
    run = momalisa("walk", "猫", "犬", "--large", *options, f"--out={mine.with_suffix('.gif')}", "--json")
    assert {f"holiday-enlarged-from-128.{kind}" for kind in ("mp4", "png")} <= {
        each.name for each in tmp_path.iterdir()
    }
    assert (mine.read_text(), mine.with_name("holiday-2.mp4").exists()) == ("mine", True)
    walk = json.loads(run.stdout[run.stdout.index("\n{") :])["id"]
    for _ in range(2):
        assert momalisa_in(tmp_path, "download", walk, f"--url={system.url}").returncode == 0
    names = {f"猫-to-犬-{walk[:4]}.gif", f"猫-to-犬-{walk[:4]}-2.gif"}
    assert names <= {path.name for path in tmp_path.iterdir()}


def test_a_pingpong_walk_is_saved_and_another_walk_starts_from_it(system: LocalStack, tmp_path: Path) -> None:
    options = [f"--out={tmp_path / 'cat.gif'}", f"--url={system.url}", "--json"]
    first = momalisa("walk", "a cat", "a castle", "--frames=6", "--loop=pingpong", "--hold=1", *options)
    assert first.returncode == 0, first.stderr
    made = json.loads(first.stdout[first.stdout.index("{") :])
    assert (made["settings"]["pacing"], len(made["sequence"])) == ("even", 10 + 2)
    with Image.open(tmp_path / "cat.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 12
    second = momalisa("walk", f"--from-walk={made['id']}", "--hold=0", "--easing=ease-in", *options)
    assert second.returncode == 0, second.stderr
    other = json.loads(second.stdout[second.stdout.index("{") :])
    assert (other["prompts"], other["from_walk"], len(other["sequence"])) == (made["prompts"], made["id"], 10)
    assert other["settings"] == {**made["settings"], "hold": 0, "easing": "ease-in"}


def test_a_walk_is_made_again_from_its_files_and_in_variations(system: LocalStack, tmp_path: Path) -> None:
    options = [f"--url={system.url}", "--json"]
    first = momalisa("walk", "a cat", "a castle", "--frames=4", "--steps=1", f"--out={tmp_path / 'cat'}", *options)
    made = json.loads(first.stdout[first.stdout.index("\n{") :])
    for like in ("cat.gif", "cat.mp4"):
        again = momalisa("walk", f"--like={tmp_path / like}", f"--out={tmp_path / 'again'}", *options)
        assert again.returncode == 0, again.stderr
        other = json.loads(again.stdout[again.stdout.index("\n{") :])
        assert (other["prompts"], other["settings"], other["warnings"]) == (made["prompts"], made["settings"], [])
        assert (tmp_path / "again.gif").read_bytes() == (tmp_path / "cat.gif").read_bytes()
    several = subprocess.run(
        [sys.executable, "-m", "momalisa", "walk", f"--like={tmp_path / 'cat.gif'}", "--variations=2", *options],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    walks = json.loads(several.stdout[several.stdout.index("\n[") :])
    assert len({walk["settings"]["seed"] for walk in walks}) == 2
    assert len([*tmp_path.glob("a-cat-to-a-castle-*.gif")]) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name two or more stops, or something to start from: --from-walk, --like or --settings."),
        (["a cat", "a castle", "--loop=round"], "loop: must be 'none', 'pingpong' or 'closed', got 'round'"),
        (["a cat"], "prompts: at least 2 are needed, got 1"),
        (["a cat", "a castle", "--frames=961"], "frames: at most 960, got 961"),
        (["a cat", "x" * 2001], "prompts[1]: at most 2000 characters, got 2001"),
        (
            ["a cat", "a castle", "--out=nowhere/cat.gif"],
            "cat.gif cannot be written: there is no folder nowhere.",
        ),
        (
            ["a cat", "a castle", "--out=docs.gif/x"],
            "x.gif cannot be written: there is no folder docs.gif.",
        ),
    ],
)
def test_a_refusal_is_reported_in_one_sentence(system: LocalStack, arguments: list[str], sentence: str) -> None:
    run = momalisa("walk", f"--url={system.url}", *arguments)
    assert run.returncode == 1
    assert sentence in run.stderr.replace("\n", " ")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("out", ["cat", "cat.mp4"])
def test_the_gif_is_named_after_the_prompts(system: LocalStack, tmp_path: Path, out: str) -> None:
    run = momalisa("walk", "a", "b", "--frames=2", f"--out={tmp_path / out}", f"--url={system.url}")
    assert run.returncode == 0, run.stderr
    assert {path.suffix for path in tmp_path.iterdir()} == {".gif", ".mp4"}


@pytest.mark.parametrize("url", ["http://[::1", "nonsense", "http://127.0.0.1:1"])
def test_an_invalid_url_is_reported_in_one_sentence(url: str) -> None:
    run = momalisa("walk", "a", "b", f"--url={url}")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr


def test_an_invalid_setting_is_reported_in_one_sentence() -> None:
    run = momalisa("migrate", BATCH_SIZE="0")
    assert run.returncode == 1
    assert run.stderr == "The settings are not valid. BATCH_SIZE: Input should be greater than or equal to 1.\n"


def test_with_a_key_from_the_environment_a_walk_is_canceled_by_the_next_command(system: LocalStack) -> None:
    made = momalisa("keys", "create", "a program", **system.variables)
    key = {"MOMALISA_API_KEY": made.stdout.split()[-1], "MOMALISA_URL": system.url}
    with Client(system.url, key["MOMALISA_API_KEY"]) as client:
        walk = client.submit(["a", "b"], frames=240, steps=100, public=False)
    assert momalisa("status", walk["id"], **key).returncode == 0
    assert "There is no walk" in momalisa("status", walk["id"], MOMALISA_URL=system.url).stderr
    assert "canceled" in momalisa("cancel", walk["id"], **key).stdout


def test_an_unreachable_server_is_reported_in_one_sentence() -> None:
    run = momalisa("walk", "a", "b", f"--url=http://127.0.0.1:{free_port()}")
    assert run.returncode == 1
    assert "cannot be reached" in run.stderr


@pytest.mark.parametrize(("answer", "status"), [(b"n\n", "running"), (b"\n", "canceled")])
def test_ctrl_c_offers_to_cancel_the_walk(system: LocalStack, answer: bytes, status: str) -> None:
    secret = momalisa("keys", "create", "a person", **system.variables).stdout.split()[-1]
    keyboard, terminal = os.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "momalisa", "walk", "a", "b", "--frames=240", f"--url={system.url}"],
        cwd=ROOT,
        env=environment(MOMALISA_API_KEY=secret),
        stdin=terminal,
        stdout=subprocess.PIPE,
        text=True,
    )
    with Client(system.url, secret) as client:
        deadline = time.monotonic() + 60
        while not (mine := client._request("GET", "/v1/walks?mine=true").json()["walks"]):
            assert command.poll() is None
            assert time.monotonic() < deadline
        for walk in client.watch(mine[0]):
            if walk["progress"]["frames_done"]:
                break
        command.send_signal(signal.SIGINT)
        os.write(keyboard, answer)
        output, _ = command.communicate(timeout=60)
        assert "Cancel the walk, too?" in output
        assert command.returncode == 130
        assert client.get(walk["id"])["status"] == status
        assert ("continues" in output) == (status == "running")
        client.cancel(walk["id"])


def test_ctrl_c_cancels_the_walk_of_a_visitor_without_a_key(system: LocalStack) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "momalisa", "walk", "a keyless cat", "b", "--frames=240", f"--url={system.url}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with Client(system.url) as client:
        deadline = time.monotonic() + 60
        while not (found := [each for each in client.page()["walks"] if "a keyless cat" in each["prompts"]]):
            assert command.poll() is None
            assert time.monotonic() < deadline
        for walk in client.watch(client.get(found[0]["id"])):
            if walk["progress"]["frames_done"]:
                break
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=60)
        assert (command.returncode, "could not be canceled" in errors) == (130, False)
        assert client.get(walk["id"])["status"] == "canceled"


class Stuck(BaseHTTPRequestHandler):
    """A server that accepts a walk, and then does not answer for long."""

    asked: Queue[str] = Queue()
    over = Event()

    def do_POST(self) -> None:
        self.asked.put(self.path)
        if self.path == "/v1/walks":
            progress = {"frames_done": 0, "frames_total": 2}
            walk = {"id": "7", "status": "queued", "done": False, "frames_total": 2, "progress": progress}
            self._answer(202, walk)
        else:
            self.over.wait()

    def do_GET(self) -> None:
        self.asked.put(self.path)
        self.over.wait()

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_second_ctrl_c_ends_a_command_whose_server_is_stuck() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stuck)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"--url=http://127.0.0.1:{server.server_port}"
    command = subprocess.Popen(
        [sys.executable, "-m", "momalisa", "walk", "a", "b", url], cwd=ROOT, stdin=subprocess.DEVNULL
    )
    try:
        for path in ("/v1/walks", "/v1/walks/7"):
            assert Stuck.asked.get(timeout=60) == path
        command.send_signal(signal.SIGINT)
        assert Stuck.asked.get(timeout=60) == "/v1/walks/7/cancel"
        command.send_signal(signal.SIGINT)
        assert command.wait(timeout=10) == 130  # without it, it would wait twenty seconds for a response
    finally:
        command.kill()
        command.wait()
        Stuck.over.set()
        server.shutdown()
        server.server_close()


def test_the_version_is_printed() -> None:
    assert momalisa("--version").stdout.startswith("momalisa ")


def test_a_walk_can_be_shown_listed_canceled_and_downloaded(system: LocalStack, tmp_path: Path) -> None:
    url = f"--url={system.url}"
    run = momalisa("walk", "a", "b", "--frames=2", f"--out={tmp_path / 'x'}", url, "--json")
    made = json.loads(run.stdout[run.stdout.index("\n{") :])
    assert "succeeded" in momalisa("status", made["id"], url).stdout
    assert json.loads(momalisa("status", made["id"], url, "--json").stdout)["id"] == made["id"]
    assert made["id"] in momalisa("list", url).stdout
    saved = momalisa("download", made["id"], "--kind=zip", f"--out={tmp_path / 'frames.zip'}", url)
    assert (saved.returncode, (tmp_path / "frames.zip").stat().st_size) == (0, made["artifacts"]["zip"]["bytes"])
    late = momalisa("cancel", made["id"], url)
    assert (late.returncode, "Only the owner of walk" in late.stderr) == (1, True)
    wrong = momalisa("download", made["id"], "--kind=psd", url)
    assert (wrong.returncode, "it has card, gif, mp4, poster, sheet, webp, zip" in wrong.stderr) == (1, True)


def test_admit_explains_why_a_model_cannot_be_measured() -> None:
    run = momalisa("admit", MODEL="/nowhere")
    assert (run.returncode, run.stdout) == (1, "")
    assert "/nowhere" in run.stderr
    assert "Traceback" not in run.stderr
