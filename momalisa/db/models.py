"""The tables of MoMALisa: walks, their chunks, their frames and what is made of them; API keys."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, query_expression, relationship

from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import (
    ArtifactKind,
    ChunkKind,
    ChunkStatus,
    DeliveryStatus,
    Flag,
    WalkStatus,
    WebhookEvent,
)

Bytes = bytes  # by another name, since a column has this one


GONE = "deleted_at IS NOT NULL OR status = 'expired'"
"""A walk whose objects, and then whose row, are to be removed. Literal SQL, so that the partial index is used."""


class SpecType(TypeDecorator[WalkSpec]):
    """A WalkSpec, stored as JSON."""

    impl = JSONB
    cache_ok = True

    def process_bind_param(self, value: WalkSpec | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """Turn a spec into JSON."""
        return None if value is None else value.model_dump(mode="json")

    def process_result_value(self, value: Any, dialect: Dialect) -> WalkSpec | None:  # noqa: ARG002
        """Turn JSON into a spec."""
        return None if value is None else WalkSpec.model_validate(value)


def _enum(kind: type[StrEnum]) -> Enum:
    """Return the type of a column that holds an enum: text with a CHECK constraint."""
    return Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        length=16,
        name=kind.__name__.lower(),
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """What all tables share: constraint names that a migration can refer to, and times with a zone."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: DateTime(timezone=True),
        int: BigInteger(),
        str: Text(),
        bytes: LargeBinary(),
        WalkSpec: SpecType(),
        list[str]: JSONB(),
        WalkStatus: _enum(WalkStatus),
        ChunkKind: _enum(ChunkKind),
        ChunkStatus: _enum(ChunkStatus),
        ArtifactKind: _enum(ArtifactKind),
        Flag: _enum(Flag),
        WebhookEvent: _enum(WebhookEvent),
        DeliveryStatus: _enum(DeliveryStatus),
    }


class Walk(Base):
    """One job: prompts and settings in, an animation out."""

    __tablename__ = "walks"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[WalkStatus] = mapped_column(server_default=WalkStatus.QUEUED)
    owner: Mapped[str]
    """Who made it, and may do with it what others may not: `key:ID` or `visitor:ID`."""
    public: Mapped[bool]
    """Whether others may see it."""
    secret: Mapped[str] = mapped_column(deferred=True, deferred_raiseload=True)
    """Part of the names of its objects, so that they are found by those only who are given their URLs."""
    secret_changed_at: Mapped[datetime | None]
    """When it got another one, as long as objects are still to be moved to their new names (`moving`)."""
    spec: Mapped[WalkSpec]
    from_walk: Mapped[UUID | None]
    """The walk whose frames it takes over where they are the same; that one may be gone by now."""
    source: Mapped[UUID | None] = query_expression()
    """`from_walk`, if the one who asks may see that walk (`jobs.get`, `jobs.page`)."""
    model: Mapped[str]
    batch_size: Mapped[int]
    """Frames in each of its chunks, a full batch: BATCH_SIZE when it was made."""
    frames_total: Mapped[int]
    frames_done: Mapped[int] = mapped_column(server_default="0")
    revision: Mapped[int] = mapped_column(server_default="1")
    """Grows with every change that a client can see."""
    warnings: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    webhook_url: Mapped[str | None]
    """Who wants to be told that it has ended; for nobody else to see."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    """A walk that is not over by then fails."""
    hidden_at: Mapped[datetime | None]
    """An operator took it out of the gallery: only its owner sees it."""
    deleted_at: Mapped[datetime | None]
    """Its owner removed it: nobody sees it any more, and the row goes once its objects are gone."""
    purged_at: Mapped[datetime | None]
    """Its objects are gone; set while its row stays because the webhook of its end is still to be sent."""
    purge_after: Mapped[datetime | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """When somebody may (again) try to remove its objects and its row, if it is deleted or expired.

    Of another walk: when its objects could not be moved, so that those of others come first (`moving`).
    """
    traceparent: Mapped[str | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """The request that made it, as a W3C `traceparent`, where requests are traced."""

    frames: Mapped[list["Frame"]] = relationship(order_by="Frame.position", viewonly=True)
    artifacts: Mapped[list["Artifact"]] = relationship(order_by="Artifact.kind", viewonly=True)

    __table_args__ = (
        CheckConstraint("frames_done BETWEEN 0 AND frames_total", name="frames_done"),
        Index(
            "walks_gallery",
            created_at.desc(),
            id.desc(),
            postgresql_where=text("public AND hidden_at IS NULL AND deleted_at IS NULL"),
        ),
        Index("walks_deadline", "deadline_at", postgresql_where=text("finished_at IS NULL")),
        Index("walks_finished", "finished_at", postgresql_where=text("purged_at IS NULL")),
        Index("walks_gone", text("purge_after NULLS FIRST"), postgresql_where=text(GONE)),
        Index("walks_moving", "secret_changed_at", postgresql_where=text("secret_changed_at IS NOT NULL")),
        Index("walks_owner", "owner", created_at.desc(), id.desc()),
        Index(
            "walks_gallery_status",
            "status",
            created_at.desc(),
            id.desc(),
            postgresql_where=text("public AND hidden_at IS NULL AND deleted_at IS NULL"),
        ),
        Index("walks_owner_status", "owner", "status", created_at.desc(), id.desc()),
        Index("walks_words", text("walk_grams(spec -> 'prompts')"), postgresql_using="gin"),
    )


class Chunk(Base):
    """The unit of work, lease and retry: frames to render as one batch, or a walk to assemble."""

    __tablename__ = "chunks"

    walk_id: Mapped[UUID] = mapped_column(ForeignKey("walks.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """Order within the walk; chunk 0 spans all of it."""
    kind: Mapped[ChunkKind]
    status: Mapped[ChunkStatus] = mapped_column(server_default=ChunkStatus.QUEUED)
    tenant: Mapped[str]
    """Who takes turns with others in the fair order: `key:ID` or `address:NETWORK`, never a visitor's cookie."""
    model: Mapped[str]
    """What its worker must have; "" if it needs none."""
    virtual_time: Mapped[int]
    """Place in the fair order between owners (`turns`); lower is sooner."""
    priority: Mapped[int]
    """Place within the turn: 0 was in a worker's hands before, 1 is the first of a newcomer, 2 the rest."""
    scheduled_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default="0")
    """Claims so far that were not given back."""
    worker: Mapped[str | None]
    """Who claimed it last, as host:pid."""
    secret: Mapped[str | None]
    """The secret of its walk when it was claimed last, under which its worker names objects."""
    lease_token: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    """Changes with every heartbeat, by which a reconciler sees that its worker lives (`leases`)."""
    error: Mapped[str | None]
    """What went wrong at the last attempt."""
    failed_by: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    """The workplaces at which it failed, as host:pid of a worker, whose processes come and go."""
    history: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default="[]", deferred=True)
    """Its last failed attempts: attempt, at, worker, error."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    claimed_at: Mapped[datetime | None]
    """When its last attempt began."""
    lease_lost_at: Mapped[datetime | None]
    """When a lease of it ran out, or its worker was found dead, the last time that one was."""
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("(status = 'leased') = (lease_token IS NOT NULL)", name="lease_token"),
        CheckConstraint("(status = 'leased') = (lease_expires_at IS NOT NULL)", name="lease_expires_at"),
        Index(
            "chunks_queued",
            *("kind", "model", "virtual_time", "priority", "created_at"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "chunks_tenant", "tenant", "kind", "model", "virtual_time", postgresql_where=text("status = 'queued'")
        ),
        Index("chunks_done", "kind", "finished_at", postgresql_where=text("status = 'done'")),
        Index("chunks_leased", "kind", "model", postgresql_where=text("status = 'leased'")),
    )


class Tenant(Base):
    """One of those who take turns, for as long as that matters (`turns`)."""

    __tablename__ = "tenants"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    """As `Chunk.tenant`."""
    model: Mapped[str] = mapped_column(primary_key=True)
    next_virtual_time: Mapped[int]
    """The one after that of the last chunk that it has added."""


class Worker(Base):
    """A process that claims chunks, as long as it says so (`workers`)."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    """As host:pid, like `Chunk.worker`."""
    kind: Mapped[ChunkKind]
    model: Mapped[str]
    """That it has; as `Chunk.model`."""
    seen_at: Mapped[datetime]


class Pause(Base):
    """While there is a row, no worker claims anything."""

    __tablename__ = "pauses"

    since: Mapped[datetime] = mapped_column(primary_key=True, server_default=func.now())


class Frame(Base):
    """One rendered image at a position; `object` is null until it is uploaded.

    A flagged frame is never uploaded. It gets the object of its nearest neighbour when the walk is assembled.
    """

    __tablename__ = "frames"

    walk_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[float] = mapped_column(primary_key=True)
    """Where it lies on the walk: 0 is the first stop, 1 the last."""
    chunk: Mapped[int]
    object: Mapped[str | None]
    bytes: Mapped[int | None]
    crc32c: Mapped[str | None]
    """Checksum of the object as Google Cloud Storage gives it: base64 of the big-endian CRC32C."""
    rendered_at: Mapped[datetime | None]
    flagged: Mapped[Flag | None]
    thumbnail: Mapped[Bytes | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """What it looks like from afar, by which later frames are placed (`pacing`)."""
    content_hash: Mapped[str | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """What it shows (`spec.frame_key`): another walk that needs the same picture may copy it."""

    __table_args__ = (
        ForeignKeyConstraint(["walk_id", "chunk"], ["chunks.walk_id", "chunks.number"], ondelete="CASCADE"),
        ForeignKeyConstraint(["walk_id"], ["walks.id"], ondelete="CASCADE"),
        CheckConstraint("position BETWEEN 0 AND 1", name="position"),
        CheckConstraint(
            "num_nulls(object, bytes, crc32c, rendered_at) IN (0, 4)", name="recorded_whole_or_not_at_all"
        ),
        Index("frames_chunk", "walk_id", "chunk"),
    )


class Artifact(Base):
    """A file made of all frames of a finished walk."""

    __tablename__ = "artifacts"

    walk_id: Mapped[UUID] = mapped_column(ForeignKey("walks.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[ArtifactKind] = mapped_column(primary_key=True)
    object: Mapped[str]
    bytes: Mapped[int]
    crc32c: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]


class Tombstone(Base):
    """What is left of an expired walk, so that those who could see it learn that it was there."""

    __tablename__ = "tombstones"

    walk_id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str]
    public: Mapped[bool]
    """Whether everybody could see it."""
    expired_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("tombstones_age", "expired_at"),)


class IdempotencyKey(Base):
    """A key under which a caller submitted a walk, so that a repeated request makes no second one."""

    __tablename__ = "idempotency_keys"

    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[str]
    """SHA-256 of the request, in hexadecimal digits."""
    walk_id: Mapped[UUID] = mapped_column(
        ForeignKey("walks.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED")
    )
    """Known before the walk is written, in the same transaction."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("idempotency_keys_age", "created_at"), Index("idempotency_keys_walk", "walk_id"))


class WebhookDelivery(Base):
    """A message that tells that a walk has ended, and how its delivery goes."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    """The id of the message, the same at every attempt."""
    walk_id: Mapped[UUID] = mapped_column(ForeignKey("walks.id", ondelete="CASCADE"), unique=True)
    event: Mapped[WebhookEvent]
    url: Mapped[str]
    host: Mapped[str]
    """Of its URL."""
    tenant: Mapped[str]
    """Who takes turns with others, as `Chunk.tenant` has it."""
    status: Mapped[DeliveryStatus] = mapped_column(server_default=DeliveryStatus.PENDING)
    scheduled_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When it is sent next; while somebody sends it, when their lease runs out."""
    wait_seconds: Mapped[float]
    """How far ahead `scheduled_at` was set: if it is further, PostgreSQL's clock was set back, and it is due."""
    attempts: Mapped[int] = mapped_column(server_default="0")
    lease_token: Mapped[UUID | None]
    """Set while somebody sends it, or vanished while they did."""
    error: Mapped[str | None]
    """What went wrong at the last attempt."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("(status = 'pending') = (finished_at IS NULL)", name="finished_at"),
        Index("webhook_deliveries_pending", "scheduled_at", postgresql_where=text("status = 'pending'")),
        Index("webhook_deliveries_sending", "tenant", "host", postgresql_where=text("lease_token IS NOT NULL")),
    )


class ApiKey(Base):
    """What a program shows to say who it is. The secret itself is not kept."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    hash: Mapped[str] = mapped_column(unique=True)
    """SHA-256 of the secret, in hexadecimal digits."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
