"""The tables of MoMALisa."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, query_expression, relationship

from momalisa.db.types import ModelType, enum
from momalisa.domain.dense import Check
from momalisa.domain.pins import MadeWith
from momalisa.domain.spec import WalkSpec
from momalisa.domain.states import (
    ArtifactKind,
    ChunkKind,
    ChunkStatus,
    DeliveryStatus,
    Flag,
    Made,
    WalkStatus,
    WebhookEvent,
)

Bytes = bytes  # under another name, because a column is called `bytes`

GONE = "deleted_at IS NOT NULL OR status = 'expired'"
"""Condition that the objects and the row of a walk have to be removed; literal SQL, as in its partial index."""


class Base(DeclarativeBase):
    """Base of all tables: constraint names that a migration can refer to, and column types."""

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
        Check: ModelType(Check),
        MadeWith: ModelType(MadeWith),
        WalkSpec: ModelType(WalkSpec),
        list[str]: JSONB(),
        WalkStatus: enum(WalkStatus),
        ChunkKind: enum(ChunkKind),
        ChunkStatus: enum(ChunkStatus),
        ArtifactKind: enum(ArtifactKind),
        Flag: enum(Flag),
        WebhookEvent: enum(WebhookEvent),
        DeliveryStatus: enum(DeliveryStatus),
    }


class Walk(Base):
    """A walk: the job of one submission, from prompts and settings to an animation."""

    __tablename__ = "walks"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[WalkStatus] = mapped_column(server_default=WalkStatus.QUEUED)
    owner: Mapped[str]
    """Who created it and may cancel, change and delete it: `key:ID` or `visitor:ID`."""
    public: Mapped[bool]
    """Whether everyone may see it."""
    secret: Mapped[str] = mapped_column(deferred=True, deferred_raiseload=True)
    """Random part of its object names, so that only those who were given the URLs can read the files."""
    secret_changed_at: Mapped[datetime | None]
    """When the secret was changed; null once all objects have been renamed (`relocation`)."""
    spec: Mapped[WalkSpec]
    from_walk: Mapped[UUID | None]
    """The walk whose frames are reused where they are the same; it may no longer exist."""
    source: Mapped[UUID | None] = query_expression()
    """`from_walk`, if the viewer may see that walk (`walks.queries`)."""
    model: Mapped[str]
    batch_size: Mapped[int]
    """Frames in a full chunk: BATCH_SIZE when it was created, or that of the walk whose frames it keeps."""
    made_with: Mapped[MadeWith | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """What rendered the walk that this one is pinned to (`domain.pins`); null if it is pinned to none."""
    frames_total: Mapped[int]
    frames_done: Mapped[int] = mapped_column(server_default="0")
    revision: Mapped[int] = mapped_column(server_default="1")
    """Grows with every change that a client can see; its entity tag."""
    warnings: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    webhook_url: Mapped[str | None]
    """Receiver of the webhook that is sent when it ends; never shown."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    """When it fails, if it is still active."""
    hidden_at: Mapped[datetime | None]
    """When an operator hid it; since then only its owner sees it."""
    deleted_at: Mapped[datetime | None]
    """When it was deleted; since then it is invisible, and its row is removed after its objects."""
    purged_at: Mapped[datetime | None]
    """When its objects were removed; the row stays until its webhook is delivered."""
    purge_after: Mapped[datetime | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """Deleted and expired walks: when to try (again) to remove the objects and the row (`retention`).

    Other walks: when moving the objects last failed, so that other walks are tried first (`relocation`).
    """
    traceparent: Mapped[str | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """The request that created it, as a W3C `traceparent`; null if it was not traced."""

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
        Index(
            "walks_children",
            "from_walk",
            created_at.desc(),
            id.desc(),
            postgresql_where=text("from_walk IS NOT NULL"),
        ),
        Index("walks_words", text("walk_grams(spec -> 'prompts')"), postgresql_using="gin"),
    )


class Chunk(Base):
    """The unit of work: frames to render as one batch, or a walk to assemble."""

    __tablename__ = "chunks"

    walk_id: Mapped[UUID] = mapped_column(ForeignKey("walks.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """Order within the walk; chunk 0 spans the whole walk."""
    kind: Mapped[ChunkKind]
    interpolated: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its frames lie between those of earlier passes, and are only decoded (`domain.dense`)."""
    pass_start: Mapped[int] = mapped_column(server_default="0")
    """Number of the first chunk of its pass, if its frames may depend on those of chunks before that; else 0."""
    status: Mapped[ChunkStatus] = mapped_column(server_default=ChunkStatus.QUEUED)
    tenant: Mapped[str]
    """Unit of fairness and limits: `key:ID` or `address:NETWORK`, never a visitor's cookie."""
    model: Mapped[str]
    """Model that its worker must have; "" if it needs none."""
    virtual_time: Mapped[int]
    """Place in the fair order (`fairness`); the least is claimed first."""
    priority: Mapped[int]
    """Order within a virtual time (`fairness`): 0 for retries, 1 for a newcomer's first chunk, 2 for all others."""
    scheduled_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default="0")
    """Number of claims that were not released."""
    batch_size: Mapped[int | None]
    """Frames that are rendered at once; less than planned once memory ran out. Null: that of the walk."""
    made_with: Mapped[MadeWith | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """What rendered its frames, once they are recorded."""
    worker: Mapped[str | None]
    """Process that claimed it last, as host:pid."""
    secret: Mapped[str | None]
    """Secret of its walk at the last claim, which the worker uses in object names."""
    lease_token: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    """Changes with every heartbeat, which shows a reconciler that the worker is alive (`reclaim`)."""
    error: Mapped[str | None]
    """Error of the last failed attempt."""
    failed_on: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    """Workers on which it failed: the parents of their processes, as host:pid."""
    history: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default="[]", deferred=True)
    """Its last failed attempts: attempt, at, worker, error."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    claimed_at: Mapped[datetime | None]
    """When it was last claimed."""
    lease_lost_at: Mapped[datetime | None]
    """When its lease last expired, or its worker was last found dead."""
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
        Index("chunks_waiting", "walk_id", postgresql_where=text("status = 'waiting'")),
    )


class Tenant(Base):
    """The state of a tenant in the fair order of one model (`fairness`)."""

    __tablename__ = "tenants"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    """As `Chunk.tenant`."""
    model: Mapped[str] = mapped_column(primary_key=True)
    next_virtual_time: Mapped[int]
    """Virtual time after its last enqueued chunk."""


class Charge(Base):
    """What a walk takes of its tenant's daily budgets (`queue.budgets`); kept for a day, even if it is deleted."""

    __tablename__ = "charges"

    walk_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    """As `Chunk.tenant`."""
    pixel_steps: Mapped[int]
    output_pixels: Mapped[int]
    settled: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the walk has ended: then this is what was computed, and before that the most that may be."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("charges_tenant", "tenant", "created_at"), Index("charges_age", "created_at"))


class Worker(Base):
    """A live worker process (`workers`)."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    """As host:pid, like `Chunk.worker`."""
    kind: Mapped[ChunkKind]
    model: Mapped[str]
    """Model that it has loaded; as `Chunk.model`."""
    seen_at: Mapped[datetime]


class KnownModel(Base):
    """A model that a render worker has, or had (`queue.catalog`)."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(primary_key=True)
    """As `Chunk.model`."""
    description: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """A `domain.model.Model`, as the last worker that loaded it reported it."""
    described_at: Mapped[datetime]


class Pause(Base):
    """While this table has a row, all claims are paused."""

    __tablename__ = "pauses"

    since: Mapped[datetime] = mapped_column(primary_key=True, server_default=func.now())


class Frame(Base):
    """A frame of a walk; `object` is null until it is uploaded.

    A flagged frame is never uploaded; at assembly it gets the object of its nearest neighbour.
    """

    __tablename__ = "frames"

    walk_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[float] = mapped_column(primary_key=True)
    """Its place on the walk: 0 is the first stop, 1 the last."""
    chunk: Mapped[int]
    object: Mapped[str | None]
    bytes: Mapped[int | None]
    crc32c: Mapped[str | None]
    """Checksum of the object as Google Cloud Storage gives it: base64 of the big-endian CRC32C."""
    rendered_at: Mapped[datetime | None]
    flagged: Mapped[Flag | None]
    thumbnail: Mapped[Bytes | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """The picture in 32 × 32 pixels, from which later frames are placed (`pacing`)."""
    content_hash: Mapped[str | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """Equal for equal pictures (`domain.content`), so that another walk can reuse the frame."""
    interpolated: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it was interpolated between others, and not denoised (`domain.dense`)."""
    copied: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it was copied from another walk."""
    latents: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its object carries its latents, so that other frames can be interpolated from it."""
    check: Mapped[Check | None] = mapped_column(deferred=True, deferred_raiseload=True)
    """How well interpolation over the gap that it was rendered in would have worked; null if that is unknown."""
    error: Mapped[float | None]
    """How much an interpolated frame is expected to differ from a denoised one (`dense.Error.mean`), if known."""

    @property
    def made(self) -> Made | None:
        """How it was made; None if it is still to be made, or must not be shown."""
        if self.object is None or self.flagged is not None:
            return None
        if self.copied:
            return Made.COPIED
        return Made.INTERPOLATED if self.interpolated else Made.DENOISED

    @property
    def expected_error(self) -> float | None:
        """`error` of an interpolated frame that may be shown; what was planned for others means nothing."""
        return self.error if self.made and self.interpolated else None

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
    """A file of a finished walk."""

    __tablename__ = "artifacts"

    walk_id: Mapped[UUID] = mapped_column(ForeignKey("walks.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[ArtifactKind] = mapped_column(primary_key=True)
    object: Mapped[str]
    bytes: Mapped[int]
    crc32c: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]


class Tombstone(Base):
    """What is left of an expired walk, so that its URL can answer 410."""

    __tablename__ = "tombstones"

    walk_id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str]
    public: Mapped[bool]
    """Whether everyone could see it."""
    expired_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("tombstones_age", "expired_at"),)


class IdempotencyKey(Base):
    """An Idempotency-Key of a caller, so that a repeated request creates no second walk."""

    __tablename__ = "idempotency_keys"

    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[str]
    """SHA-256 of the request, in hexadecimal digits."""
    walk_id: Mapped[UUID] = mapped_column(
        ForeignKey("walks.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED")
    )
    """Written before the walk, in the same transaction."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("idempotency_keys_age", "created_at"), Index("idempotency_keys_walk", "walk_id"))


class WebhookDelivery(Base):
    """The delivery of a webhook about the end of a walk."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Message id, the same at every attempt."""
    walk_id: Mapped[UUID] = mapped_column(ForeignKey("walks.id", ondelete="CASCADE"), unique=True)
    event: Mapped[WebhookEvent]
    url: Mapped[str]
    host: Mapped[str]
    """Host of the URL."""
    tenant: Mapped[str]
    """As `Chunk.tenant`."""
    status: Mapped[DeliveryStatus] = mapped_column(server_default=DeliveryStatus.PENDING)
    scheduled_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When it is due; while it is leased, when the lease expires."""
    wait_seconds: Mapped[float]
    """How far ahead `scheduled_at` was set, in seconds; if it is further ahead, PostgreSQL's clock was set back."""
    attempts: Mapped[int] = mapped_column(server_default="0")
    lease_token: Mapped[UUID | None]
    """Set while it is leased, and after its sender has died."""
    error: Mapped[str | None]
    """Error of the last failed attempt."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("(status = 'pending') = (finished_at IS NULL)", name="finished_at"),
        Index("webhook_deliveries_pending", "scheduled_at", postgresql_where=text("status = 'pending'")),
        Index("webhook_deliveries_sending", "tenant", "host", postgresql_where=text("lease_token IS NOT NULL")),
    )


class ApiKey(Base):
    """An API key, of which only the hash is stored."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    hash: Mapped[str] = mapped_column(unique=True)
    """SHA-256 of the secret, in hexadecimal digits."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
