"""The `momalisa` command."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from momalisa import __version__
from momalisa.cli import admin, request
from momalisa.cli.options import with_settings
from momalisa.cli.terminal import Stopped, console, errors_as_sentences, fail, print_json, tell
from momalisa.client import ApiError, Client, Walk
from momalisa.domain.file_names import file_name
from momalisa.errors import LocalSystemError
from momalisa.local.processes import free_port
from momalisa.settings import ROOT, settings

if TYPE_CHECKING:
    from momalisa.local.stack import LocalStack

app = typer.Typer(
    name="momalisa",
    help="Walk between two artworks in the latent space of Stable Diffusion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(admin.app)

Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Port of the website and the API; or PORT.", show_default="8000"),
]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Server; else MOMALISA_URL, or this machine.", show_default=False),
]
Id = Annotated[str, typer.Argument(help="Id of the walk.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer.")]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=64, help="Workers; else WORKERS, one per GPU, or 2.", show_default=False),
]

_STATUS = {
    "queued": "waiting for a worker",
    "running": "rendering",
    "assembling": "making the files",
    "succeeded": "done",
}

SUPERVISE_SECONDS = 2
"""Interval at which a system that was started for one walk is supervised."""

_SUFFIXES = {
    "poster": "-poster.webp",
    "card": "-card.jpg",
    "sheet": "-sheet.png",
    "large": "-enlarged-from-{enlarged_from}.mp4",
    "large_still": "-enlarged-from-{enlarged_from}.png",
}
"""Suffixes of saved files, with fields of the artifact; others have their kind as suffix."""


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Walk between two artworks in the latent space of Stable Diffusion."""
    if version:
        tell(f"momalisa {__version__}")
        raise typer.Exit


@app.command()
def up(
    port: Port = None,
    workers: Workers = None,
    folder: Annotated[Path, typer.Option(help="Folder for data and logs.")] = ROOT / ".momalisa",
) -> None:
    """Run the whole system on this machine until Ctrl-C."""
    from momalisa.local import stack  # noqa: PLC0415 - imports packages that clients do not need

    with errors_as_sentences(exit_code_when_stopped=0):
        system = stack.LocalStack(folder, port=port or settings().port, workers=workers or settings().workers)
        with _signals_raised(), _running(system):
            system.announce()
            tell(f"MoMALisa runs at {system.url} (Ctrl-C stops it; logs are in {system.folder / 'logs'}).")
            while True:
                system.supervise(tell)
                time.sleep(0.5)


@app.command()
@with_settings
def walk(
    prompts: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,  # the help's first line says it
    from_walk: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A walk to start from.", rich_help_panel="Start"),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A GIF, MP4, WebP, PNG or ZIP of a walk to make again.", rich_help_panel="Start"
        ),
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="JSON with fields of the API.", rich_help_panel="Start"),
    ] = None,
    variations: Annotated[
        int | None,
        typer.Option(metavar="N", help="Walks to make, with drawn seeds.", rich_help_panel="Start"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="GIF to write; the MP4 goes beside it.")] = None,
    public: Annotated[
        bool | None,
        typer.Option("--public/--private", help="In the gallery (default), or not.", show_default=False),
    ] = None,
    deadline_seconds: Annotated[int | None, typer.Option(metavar="N", help="Fail after this many seconds.")] = None,
    webhook_url: Annotated[str | None, typer.Option(metavar="URL", help="What to call when it ends.")] = None,
    url: Url = None,
    workers: Workers = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Make a walk through two or more prompts, or from what Start names; save GIF, MP4 and large files."""
    with errors_as_sentences(exit_code_when_stopped=130):
        fields = {
            **options,
            "variations": variations,
            "public": public,
            "deadline_seconds": deadline_seconds,
            "webhook_url": webhook_url,
        }
        body = request.body(prompts or [], fields, from_walk=from_walk, like=like, settings_file=settings_file)
        if out and body.get("variations"):
            fail("--out names one file, and variations are several walks: leave one of them out.")
        named = _writable_gif(out or Path("walk.gif"))
        with _signals_raised(), _server(url or settings().momalisa_url, workers) as server:
            walks = _create(server, body)
            with _client(server.url) as client:
                for walk in filter(_succeeded, walks):
                    gif = named if out else _unused(Path(f"{file_name(walk['prompts'], walk['id'])}.gif"))
                    for kind in filter(walk["artifacts"].get, ("gif", "mp4", "large", "large_still")):
                        path = gif if kind == "gif" else _unused(gif.with_name(f"{gif.stem}{_suffix(walk, kind)}"))
                        artifact = client.save(walk, kind, path)
                        size = f"{artifact['width']} × {artifact['height']}, {artifact['bytes'] / 1000:.0f} kB"
                        tell(f"Saved {path} ({size}).")
        for warning in dict.fromkeys(warning for walk in walks for warning in walk["warnings"]):
            tell(f"Note: {warning}")
        if as_json:
            print_json(walks if len(walks) > 1 else walks[0])
        if failed := [walk for walk in walks if not _succeeded(walk)]:
            fail("\n".join(map(_failure, failed)))


@app.command()
def status(walk_id: Id, url: Url = None, as_json: AsJson = False) -> None:
    """Show the status of a walk; the exit code is 1 if it failed or was canceled."""
    with errors_as_sentences(), _client(_known_server(url)) as client:
        found = client.get(walk_id)
    print_json(found) if as_json else tell(_line(found))
    if found["done"] and found["status"] != "succeeded":
        raise typer.Exit(1)


@app.command(name="list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=100, help="Number of walks.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the newest walks of the gallery."""
    with errors_as_sentences(), _client(_known_server(url)) as client:
        page = client.page(limit=limit)
    if as_json:
        print_json(page)
        return
    for found in page["walks"]:
        tell(_line(found))


@app.command()
def cancel(walk_id: Id, url: Url = None) -> None:
    """Cancel a walk; its rendered frames are kept."""
    with errors_as_sentences(), _client(_known_server(url)) as client:
        tell(_line(client.cancel(walk_id)))


@app.command()
def download(
    walk_id: Id,
    kind: Annotated[
        str, typer.Option(help="gif, mp4, webp, poster, large, large_still, sheet (all frames on one page) or zip.")
    ] = "gif",
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default=False)] = None,
    url: Url = None,
) -> None:
    """Save a file of a finished walk."""
    with errors_as_sentences(), _client(_known_server(url)) as client:
        found = client.get(walk_id)
        if kind not in found["artifacts"]:
            has = ", ".join(sorted(found["artifacts"])) or f"no files; its status is {found['status']}"
            fail(f"This walk has no {kind}; it has {has}.")
        path = out or _unused(Path(f"{file_name(found['prompts'], found['id'])}{_suffix(found, kind)}"))
        _check_writable(path)
        client.save(found, kind, path)
        tell(f"Saved {path}.")


def _suffix(walk: Walk, kind: str) -> str:
    """Return the end of the file name of an artifact."""
    return _SUFFIXES.get(kind, f".{kind}").format(**walk["artifacts"][kind])


def _writable_gif(out: Path) -> Path:
    """Return the path of the GIF, after checking that it and another file in its folder can be written."""
    gif = out if out.suffix.lower() == ".gif" else out.with_name(f"{out.name}.gif")
    if not gif.parent.is_dir():
        fail(f"{gif.name} cannot be written: there is no folder {gif.parent}.")
    _check_writable(gif)
    return gif


def _check_writable(path: Path) -> None:
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        fail(f"{path} cannot be written.")


def _unused(path: Path) -> Path:
    """Return a path, with a number if there is a file already: only what --out names is overwritten."""
    numbers = count(2)
    free = path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{next(numbers)}")
    return free


def _create(server: "_Server", body: dict[str, Any]) -> list[Walk]:
    """Create a walk or its variations, and wait for them with progress bars; Ctrl-C offers to cancel them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _client(server.url) as client, Progress(*columns, console=console) as progress:
        walk = client.submit(**{"prompts": None, **body})
        walks = [walk, *walk.get("variations", ())]
        tasks = [progress.add_task(_STATUS["queued"], total=each["frames_total"]) for each in walks]
        done = list[Walk]()
        try:
            for each, task in zip(walks, tasks, strict=True):
                for seen in client.watch(each, seconds=SUPERVISE_SECONDS if server.ours else None):
                    server.supervise()
                    progress.update(
                        task,
                        completed=seen["progress"]["frames_done"],
                        description=_STATUS.get(seen["status"], seen["status"]),
                    )
                done.append(seen)
        except Stopped:
            progress.stop()
            # A system that was started for this walk stops with it, and a script cannot be asked.
            cancel = server.ours or not sys.stdin.isatty() or typer.confirm("Cancel the walk, too?", default=True)
            for each in walks[len(done) :]:
                if cancel:
                    _cancel_at_once(client, each["id"])
                else:
                    tell(f"The walk continues; see `momalisa status {each['id']}`.")
            raise
        except LocalSystemError:
            progress.stop()
            for each in walks[len(done) :]:  # the next system would continue it, but not download it
                _cancel_at_once(client, each["id"])
            raise
    return done


def _succeeded(walk: Walk) -> bool:
    return bool(walk["status"] == "succeeded")


def _failure(walk: Walk) -> str:
    """Return why a walk did not succeed."""
    reason = walk["error"]["message"] if walk["error"] else f"Its status is {walk['status']}."
    return f"Walk {walk['id']} did not succeed. {reason}"


def _cancel_at_once(client: Client, walk_id: str) -> None:
    """Cancel a walk without retries, so that a stopped command ends soon.

    `client` must be the one that submitted it: without an API key, its cookie identifies the owner.
    """
    client.retry_seconds = 0
    try:
        client.cancel(walk_id)
    except ApiError as error:
        tell(f"The walk could not be canceled: {error} See `momalisa cancel {walk_id}`.")


def _client(url: str) -> Client:
    key = settings().momalisa_api_key
    return Client(url, key.get_secret_value() if key else None)


def _known_server(url: str | None) -> str:
    """Return the URL of the given server, or of the one running on this machine."""
    from momalisa.local import stack  # noqa: PLC0415

    found = url or settings().momalisa_url or stack.running()
    if found is None:
        fail("No server is running on this machine. Start one with `momalisa up`, or set --url or MOMALISA_URL.")
    return found


def _line(walk: Walk) -> str:
    """Return a walk in one line."""
    progress = f"{walk['progress']['frames_done']}/{walk['frames_total']}"
    reason = f": {walk['error']['message']}" if walk["error"] else ""
    return f"{walk['id']}  {walk['status']:<10} {progress:>7}  {' → '.join(walk['prompts'])}{reason}"


class _Server(NamedTuple):
    """A server, and a function to call regularly while it is used."""

    url: str
    ours: bool = False
    """Whether it was started for this walk."""
    supervise: Callable[[], None] = lambda: None


@contextmanager
def _server(url: str | None, workers: int | None) -> Iterator[_Server]:
    """Yield a server: the given one, the one running on this machine, or one that is started for this walk."""
    if url:
        yield _Server(url)
        return
    from momalisa.local import stack  # noqa: PLC0415

    if running := stack.running():
        yield _Server(running)
        return
    system = stack.LocalStack(port=free_port(), workers=workers or settings().workers)
    with _running(system):
        yield _Server(system.url, ours=True, supervise=lambda: system.supervise(tell))


@contextmanager
def _running(system: "LocalStack") -> Iterator[None]:
    """Run a system during a block; signals are ignored while it stops."""
    try:
        system.start(tell)
        yield
    finally:
        try:
            for name in _SIGNALS:
                signal.signal(name, signal.SIG_IGN)
        finally:
            system.stop()


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise Stopped in the block on a signal; under nohup, SIGHUP remains ignored.

    A second signal interrupts the cleanup after the first.
    """

    def on_signal(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        raise Stopped

    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    handled = [name for name in _SIGNALS if name != signal.SIGHUP or not under_nohup]
    before = {name: signal.signal(name, on_signal) for name in handled}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
