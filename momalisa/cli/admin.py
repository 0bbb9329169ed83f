"""The commands of operators: the schema, the reconciler, API keys, and what is shown.

Each imports what it works with itself, so that a visitor's commands need not wait for the libraries of servers.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from momalisa.cli.terminal import errors_as_sentences, tell
from momalisa.settings import override, settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

app = typer.Typer()
_WHERE = "in the database that DATABASE_URL names, or of the system that runs here"
keys_app = typer.Typer(help=f"Make, list and revoke API keys, {_WHERE}.", no_args_is_help=True)
moderate_app = typer.Typer(help=f"Hide, show and delete walks of anybody, {_WHERE}.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(moderate_app, name="moderate")
queue_app = typer.Typer(help=f"Look at work, try it again, pause all of it, {_WHERE}.", no_args_is_help=True)
app.add_typer(queue_app, name="queue")

WalkId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of the walk.", show_default=False)]


def _expiry(text: str) -> timedelta | datetime:
    """Return the time or the moment that `90d` or `2027-12-31` says; a day counts to its end, in UTC."""
    if found := re.fullmatch(r"([1-9][0-9]{0,4})d", text):
        return timedelta(days=int(found[1]))
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is neither a number of days, such as 90d, nor a date.") from None


@app.command()
def migrate() -> None:
    """Bring the schema of the database up to date, and make the bucket of an emulator."""
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


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose it is, or what it is for.")],
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="90d|YYYY-MM-DD",
            help="For how many days it holds, or the last day on which it does (UTC); for ever if left out.",
        ),
    ] = None,
) -> None:
    """Make an API key and show it, this once."""
    from momalisa import api_keys  # noqa: PLC0415

    until = None if expires is None else _expiry(expires)
    with _operating() as session:
        key, secret = api_keys.create(session, name, expires=until)
    tell(f"{key.id} is the id of the key. The key itself is not kept and cannot be shown again:")
    tell(secret)


@keys_app.command("list")
def list_keys() -> None:
    """List all API keys by their ids."""
    from momalisa import api_keys  # noqa: PLC0415

    with _operating() as session:
        for key in api_keys.listed(session):
            times = {"made": key.created_at, "expires": key.expires_at, "revoked": key.revoked_at}
            listed = ", ".join(f"{what} {when:%Y-%m-%d %H:%M %Z}" for what, when in times.items() if when)
            tell(f"{key.id} {key.name} ({listed})")


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[UUID, typer.Argument(metavar="ID", help="As `list` shows it.")]) -> None:
    """Make an API key worthless at once; the walks that were made with it stay."""
    from momalisa import api_keys  # noqa: PLC0415

    with _operating() as session:
        key = api_keys.revoke(session, key_id)
    tell(f"{key.id} {key.name} is revoked.")


@moderate_app.command("hide")
def hide_walk(walk_id: WalkId) -> None:
    """Take a walk out of the gallery at once; only its owner still sees it."""
    from momalisa.walks import moderation  # noqa: PLC0415

    with _operating() as session:
        moderation.hide(session, walk_id)
    tell(f"{walk_id} is hidden.")


@moderate_app.command("show")
def show_walk(walk_id: WalkId) -> None:
    """Show a walk again that was hidden."""
    from momalisa.walks import moderation  # noqa: PLC0415

    with _operating() as session:
        moderation.show(session, walk_id)
    tell(f"{walk_id} is shown.")


@moderate_app.command("delete")
def delete_walk(walk_id: WalkId) -> None:
    """Stop a walk and remove it, with all its files."""
    from momalisa.walks import moderation  # noqa: PLC0415

    with _operating() as session:
        moderation.delete(session, walk_id)
    tell(f"{walk_id} is removed; its files go within a minute.")


@queue_app.command("show")
def show_chunks(walk_id: WalkId) -> None:
    """Show the chunks of a walk, and why their attempts failed."""
    from momalisa.queue import admin  # noqa: PLC0415

    with _operating() as session:
        for chunk in admin.chunks_of(session, walk_id):
            by = f", last at {chunk.worker}" if chunk.worker else ""
            tell(f"{chunk.number} {chunk.kind} {chunk.status}, attempts: {chunk.attempts}{by}")
            for past in chunk.history:
                tell(f"    {past['at'][:19]} attempt {past['attempt']} at {past['worker']}: {past['error']}")


@queue_app.command("retry")
def retry_walk(walk_id: WalkId) -> None:
    """Queue a failed walk again, with fresh attempts; the frames that are there stay."""
    from momalisa.queue import admin  # noqa: PLC0415

    with _operating() as session:
        admin.retry(session, walk_id)
    tell(f"{walk_id} is queued again.")  # the reconciler sends the permits


@queue_app.command("pause")
def pause_queue() -> None:
    """Have no worker claim anything; what they have they finish, and walks are still accepted."""
    from momalisa.queue import admin  # noqa: PLC0415

    with _operating() as session:
        admin.pause(session)
    tell("Nothing is claimed from now on.")


@queue_app.command("resume")
def resume_queue() -> None:
    """Have workers claim again."""
    from momalisa.queue import admin  # noqa: PLC0415

    with _operating() as session:
        admin.resume(session)
    tell("Workers claim again.")


@contextmanager
def _operating() -> Iterator["Session"]:
    """Open a transaction in the database that DATABASE_URL names, or else in that of the system that runs here."""
    from momalisa.db.session import transaction  # noqa: PLC0415

    with errors_as_sentences():
        if "database_url" not in settings().model_fields_set:
            from momalisa.local import stack  # noqa: PLC0415 - a container has no system of its own, nor its wheels

            if found := stack.running_database():
                override(DATABASE_URL=found)
        with transaction() as session:
            yield session
