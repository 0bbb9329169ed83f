"""The `momalisa` command."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from momalisa import __version__
from momalisa.client import Client, Walk
from momalisa.errors import MomalisaError
from momalisa.settings import ROOT
from momalisa.spec import slug

app = typer.Typer(
    name="momalisa",
    help="Walk between two artworks in the latent space of Stable Diffusion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)

Port = Annotated[int, typer.Option(min=1, max=65535, envvar="PORT", help="Port of the website and the API.")]
Workers = Annotated[int, typer.Option(min=1, max=64, envvar="WORKERS", help="Number of render workers.")]

_STATUS = {
    "queued": "waiting for a worker",
    "running": "rendering",
    "assembling": "stitching",
    "succeeded": "done",
}


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Walk between two artworks in the latent space of Stable Diffusion."""
    if version:
        _tell(f"momalisa {__version__}")
        raise typer.Exit


@app.command()
def up(
    port: Port = 8000,
    workers: Workers = 2,
    folder: Annotated[Path, typer.Option(help="Where data and logs are kept.")] = ROOT / ".momalisa",
) -> None:
    """Run the whole system on this machine until Ctrl-C."""
    from momalisa import local  # noqa: PLC0415 - only this machine's own system needs its wheels

    with _errors_as_sentences():
        try:
            system = local.System(folder, port=port, workers=workers)
            with _signals_raised(), local.started(system, _tell):
                _tell(f"MoMALisa is at {system.url} (Ctrl-C stops it; logs are in {system.folder / 'logs'}).")
                system.supervise(_tell)
        except _Stopped:
            _tell("Stopped.")


@app.command()
def walk(
    prompts: Annotated[list[str], typer.Argument(help="Two or more stops, in words.", show_default=False)],
    frames: Annotated[int, typer.Option(help="Number of frames, 2 to 240.")] = 24,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; drawn if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="The GIF to write; the MP4 goes beside it.")] = None,
    url: Annotated[
        str | None, typer.Option(envvar="MOMALISA_URL", help="Server; this machine if left out.")
    ] = None,
    workers: Workers = 2,
) -> None:
    """Make a walk and save it as a GIF and an MP4."""
    gif = out or Path(f"{slug(prompts)}.gif")
    if not gif.parent.is_dir():
        _fail(f"There is no folder {gif.parent} to write {gif.name} to.")
    options = {} if seed is None else {"seed": seed}
    with _errors_as_sentences(), _signals_raised(), _server(url, workers) as server, Client(server) as client:
        made = _watch(client, client.submit(prompts, frames=frames, **options))
        if made["status"] != "succeeded":
            reason = made["error"]["message"] if made["error"] else f"It ended as {made['status']}."
            _fail(f"The walk was not made. {reason}")
        for kind, path in (("gif", gif), ("mp4", gif.with_suffix(".mp4"))):
            artifact = made["artifacts"][kind]
            path.write_bytes(client.download(artifact["url"]))
            console.print(
                f"Saved {path}  ({artifact['width']}×{artifact['height']}, {artifact['bytes'] / 1000:.0f} kB)"
            )
        for warning in made["warnings"]:
            _tell(f"Note: {warning}")


@app.command()
def migrate() -> None:
    """Bring the schema of the database up to date, and make the bucket of an emulator."""
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    from momalisa import storage  # noqa: PLC0415
    from momalisa.settings import settings  # noqa: PLC0415

    command.upgrade(Config(ROOT / "alembic.ini"), "head")
    if settings().bucket_endpoint:
        storage.make_bucket()


@app.command()
def reconcile() -> None:
    """Run the reconciler until SIGTERM."""
    from momalisa import log, reconciler  # noqa: PLC0415

    log.configure()
    reconciler.run()


def _watch(client: Client, walk: Walk) -> Walk:
    """Show a progress bar until a walk is done, and return it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=walk["frames_total"])
        for seen in client.watch(walk):
            walk = seen
            progress.update(
                task,
                completed=walk["progress"]["frames_done"],
                description=_STATUS.get(walk["status"], walk["status"]),
            )
    return walk


@contextmanager
def _server(url: str | None, workers: int) -> Iterator[str]:
    """Give the URL of a server: the one that was named, the one that runs here, or one started for this walk."""
    if url:
        yield url
        return
    from momalisa import local  # noqa: PLC0415

    if running := local.running():
        yield running
        return
    system = local.System(port=local.free_port(), workers=workers)
    with local.started(system, _tell):
        yield system.url


class _Stopped(BaseException):
    """A signal asked us to stop."""


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise _Stopped in the block when a signal asks to stop; further ones do not disturb the cleaning up."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def on_signal(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        for name in signals:
            signal.signal(name, signal.SIG_IGN)
        raise _Stopped

    before = {name: signal.signal(name, on_signal) for name in signals}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    try:
        yield
    except MomalisaError as error:
        _fail(str(error))
    except _Stopped:
        _tell("Stopped.")
        raise typer.Exit(130) from None


def _fail(sentence: str) -> NoReturn:
    Console(stderr=True, highlight=False).print(sentence, markup=False)
    raise typer.Exit(1)


def _tell(sentence: str) -> None:
    console.print(sentence, markup=False)
