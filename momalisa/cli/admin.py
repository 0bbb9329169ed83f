"""Commands for operators: migrations, the reconciler, the admission of models, API keys, moderation, and the queue.

Each command imports its own modules, so that commands for users start without the libraries of the server.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from momalisa.cli.terminal import errors_as_sentences, fail, tell
from momalisa.settings import override, settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

app = typer.Typer()
_WHERE = "in the database at DATABASE_URL, or in that of the system running on this machine"
keys_app = typer.Typer(help=f"Create, list and revoke API keys, {_WHERE}.", no_args_is_help=True)
moderate_app = typer.Typer(help=f"Hide, show and delete any walk, {_WHERE}.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(moderate_app, name="moderate")
queue_app = typer.Typer(help=f"Inspect and retry walks, pause and resume claims, {_WHERE}.", no_args_is_help=True)
app.add_typer(queue_app, name="queue")

WalkId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of the walk.", show_default=False)]


def _expiry(text: str) -> timedelta | datetime:
    """Parse a number of days such as `90d`, or a date such as `2027-12-31`, which includes that day (UTC)."""
    if found := re.fullmatch(r"([1-9][0-9]{0,4})d", text):
        return timedelta(days=int(found[1]))
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is neither a number of days (90d) nor a date (2027-12-31).") from None


@app.command()
def migrate() -> None:
    """Migrate the database to the newest schema; with a bucket emulator, also create the bucket."""
    from momalisa.db import schema  # noqa: PLC0415
    from momalisa.storage import bucket  # noqa: PLC0415

    with errors_as_sentences():
        schema.migrate()
        if settings().bucket_endpoint:
            bucket.make_bucket()


@app.command()
def reconcile() -> None:
    """Run the reconciler until SIGTERM."""
    from momalisa.maintenance import reconciler  # noqa: PLC0415
    from momalisa.telemetry import logging  # noqa: PLC0415

    with errors_as_sentences():
        logging.configure()
        reconciler.run()


@app.command()
def admit() -> None:
    """Measure whether frames of MODEL may be interpolated, and print what to set; takes a minute or more."""
    if find_spec("torch") is None:
        fail(
            "Only a worker can load the model: run this where PyTorch is installed, as in the image of the workers."
        )
    # In a process of its own, since this package is also installed where there is no worker.
    raise typer.Exit(subprocess.call([sys.executable, "-m", "worker.admission"]))


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what it is for.")],
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="90d|YYYY-MM-DD",
            help="Lifetime in days, or last valid day (UTC); by default the key never expires.",
        ),
    ] = None,
) -> None:
    """Create an API key and print it; it cannot be shown again."""
    from momalisa import api_keys  # noqa: PLC0415

    until = None if expires is None else _expiry(expires)
    with _operating() as session:
        key, secret = api_keys.create(session, name, expires=until)
    tell(f"{key.id} is the id of the key. The key itself is not stored, and cannot be shown again:")
    tell(secret)


@keys_app.command("list")
def list_keys() -> None:
    """List all API keys."""
    from momalisa import api_keys  # noqa: PLC0415

    with _operating() as session:
        for key in api_keys.list_keys(session):
            times = {"created": key.created_at, "expires": key.expires_at, "revoked": key.revoked_at}
            listed = ", ".join(f"{what} {when:%Y-%m-%d %H:%M %Z}" for what, when in times.items() if when)
            tell(f"{key.id} {key.name} ({listed})")


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[UUID, typer.Argument(metavar="ID", help="Id of the key, as `momalisa keys list` shows it.")],
) -> None:
    """Revoke an API key at once; its walks stay."""
    from momalisa import api_keys  # noqa: PLC0415

    with _operating() as session:
        key = api_keys.revoke(session, key_id)
    tell(f"The key {key.id} {key.name} is revoked.")


@moderate_app.command("hide")
def hide_walk(walk_id: WalkId) -> None:
    """Hide a walk at once: only its owner can still see it."""
    from momalisa.walks import moderation  # noqa: PLC0415

    with _operating() as session:
        moderation.hide(session, walk_id)
    tell(f"The walk {walk_id} is hidden.")


@moderate_app.command("show")
def show_walk(walk_id: WalkId) -> None:
    """Show a hidden walk again."""
    from momalisa.walks import moderation  # noqa: PLC0415

    with _operating() as session:
        moderation.show(session, walk_id)
    tell(f"The walk {walk_id} is shown.")


@moderate_app.command("delete")
def delete_walk(walk_id: WalkId) -> None:
    """Delete a walk with all its files."""
    from momalisa.walks import moderation  # noqa: PLC0415

    with _operating() as session:
        moderation.delete(session, walk_id)
    tell(f"The walk {walk_id} is deleted; its files are removed within a minute.")


@queue_app.command("show")
def show_chunks(walk_id: WalkId) -> None:
    """Show the chunks of a walk, and the errors of their attempts."""
    from momalisa.queue import admin  # noqa: PLC0415

    with _operating() as session:
        for chunk in admin.chunks_of(session, walk_id):
            by = f", last worker: {chunk.worker}" if chunk.worker else ""
            tell(f"{chunk.number} {chunk.kind} {chunk.status}, attempts: {chunk.attempts}{by}")
            for past in chunk.history:
                tell(f"    {past['at'][:19]} attempt {past['attempt']} on {past['worker']}: {past['error']}")


@queue_app.command("retry")
def retry_walk(walk_id: WalkId) -> None:
    """Retry a failed walk, with all attempts; rendered frames are kept."""
    from momalisa.queue import admin  # noqa: PLC0415

    with _operating() as session:
        admin.retry(session, walk_id)
    tell(f"The walk {walk_id} is queued again.")  # the reconciler publishes the messages


@queue_app.command("pause")
def pause_queue() -> None:
    """Pause all claims; workers finish their current chunks, and walks are still accepted."""
    from momalisa.queue import admin  # noqa: PLC0415

    with _operating() as session:
        admin.pause(session)
    tell("Claims are paused.")


@queue_app.command("resume")
def resume_queue() -> None:
    """Resume claims."""
    from momalisa.queue import admin  # noqa: PLC0415

    with _operating() as session:
        admin.resume(session)
    tell("Claims are resumed.")


@contextmanager
def _operating() -> Iterator["Session"]:
    """Open a transaction in the database at DATABASE_URL, or if unset, in that of the system on this machine."""
    from momalisa.db.session import transaction  # noqa: PLC0415

    with errors_as_sentences():
        if "database_url" not in settings().model_fields_set:
            from momalisa.local import stack  # noqa: PLC0415 - not installed in containers

            if found := stack.running_database():
                override(DATABASE_URL=found)
        with transaction() as session:
            yield session
