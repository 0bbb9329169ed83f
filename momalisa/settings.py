"""All settings of MoMALisa, typed and read once; the only module that reads the environment."""

import base64
import os
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    FilePath,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from momalisa import __version__, broker
from momalisa.location import locate, weighted

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: `models/`, `frontend/` and `migrations/` lie beside the packages."""

BUNDLED_MODEL = str(ROOT / "models" / "momalisa-mini")


ADMITTED = (
    "a3c278a3c1c023493916e4ee75039e442b6c87e6af03466137a41a40f9c01186",
    "2f341d22b5266703f4036b4380791d606506127fd4d66f4aa2aeb83a7e80bb85",
)
"""Revisions of models whose frames may be interpolated by default: the bundled one in float32 and in bfloat16."""


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


SECRETS = Path("/run/secrets")
"""Settings may also be files here, named like the variables in lower case, as containers mount secrets."""

Offload = Literal["none", "model"]

T = TypeVar("T")
CommaSeparated = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
"""Several values in one environment variable, separated by commas."""


class Settings(BaseSettings):
    """The settings of a process, each an environment variable of the same name in capitals.

    The comment above each group says who sets them. Operators do so in `compose.env`, in the variables of the
    Ansible playbooks, or in `settings` of the Helm chart; what images, chart and `momalisa up` set is not for them.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    # HOST: the chart and Compose. PORT: users of `momalisa up`.
    host: str = Field("127.0.0.1", description="Address on which the API listens.")
    port: int = Field(8000, ge=1, le=65535, description="Port on which the API listens.")

    # The services. Compose and `momalisa up` set them for their own services, operators for managed ones.
    database_url: str = Field(
        "postgresql+psycopg://momalisa@localhost/momalisa",
        repr=False,  # it may hold a password
        description="SQLAlchemy URL of PostgreSQL.",
    )
    broker_url: str = Field(
        "redis://localhost:6379/0",
        repr=False,
        description="URL of Redis or Valkey: redis, rediss (TLS), unix or sentinel.",
    )
    broker_ca: FilePath | None = Field(
        None,
        description="PEM file of the authorities that sign the broker's certificate; unset means the system's.",
    )
    bucket: str = Field("momalisa", description="Name of the Google Cloud Storage bucket.")
    queue_prefix: str = Field(
        default_factory=lambda data: f"{data.get('bucket')}:{_database_name(data)}:",
        description="Prefix of all keys in the broker, so that systems can share one; unset means the names of the "
        "bucket and of the database.",
    )
    bucket_endpoint: str | None = Field(
        None, description="Base URL of an emulator of the bucket API; unset means Google's."
    )
    bucket_public_url: str | None = Field(
        None,
        description="Base URL of the bucket for browsers, or a path that the website's own host forwards to it; at "
        "/files the API itself reads files from BUCKET_ENDPOINT. Unset means the URL of the bucket API.",
    )

    # The site. Operators.
    signed_urls: bool = Field(
        False,
        description="Whether the bucket is private: then files have signed URLs, which the API signs with its "
        "credentials: a service account's key, or IAM.",
    )
    signed_url_seconds: int = Field(
        24 * 3600,
        ge=60,
        le=7 * 24 * 3600,
        description="Lifetime of a signed URL; at least half of it remains when the URL is returned.",
    )
    public_url: str | None = Field(
        None,
        description="Base URL of the website as visitors see it: a host without a path. Unset, links use the Host "
        "header of the request if that is local (localhost, a private address, a name without a dot, or one under "
        ".local, .internal or .home.arpa), and are relative otherwise.",
    )
    security_contact: str | None = Field(
        None,
        pattern=r"^(mailto:|https://|tel:)\S+$",
        description="Where to report a vulnerability of this site: a mailto:, https: or tel: URI for "
        "/.well-known/security.txt; unset means no such file.",
    )

    # The model of a render worker; for the API it is the default one. Operators; the image for Vertex AI brings its
    # own MODEL. Files and folders may also be names on the Hub: owner/name, or owner/name@revision.
    model: str = Field(
        BUNDLED_MODEL,
        description="A text-to-image pipeline of diffusers: a folder, a .safetensors file, or a name on the Hub.",
    )
    loras: CommaSeparated[str] = Field(
        (),
        description="LoRAs that are merged into the model, separated by commas: each a file or folder, with its "
        "weight after a colon if that is not 1.",
    )
    textual_inversions: CommaSeparated[str] = Field(
        (),
        description="Files with textual inversions, separated by commas; a prompt uses one by its file's name.",
    )
    vae: str | None = Field(None, description="Another decoder for the model: a folder or a .safetensors file.")
    allow_pickle: bool = Field(
        False,
        description="Whether weights may be read from pickles (.bin, .ckpt, .pt) where there are no safetensors. "
        "Loading a pickle can run any code that its author put there.",
    )
    image_size: int | None = Field(
        None,
        ge=64,
        le=2048,
        multiple_of=8,
        description="Default width and height of a frame, in pixels; unset means the model's native size.",
    )
    max_size: int | None = Field(
        None,
        ge=64,
        le=2048,
        multiple_of=8,
        description="Maximum width and height of a frame, in pixels; unset means twice the default size.",
    )
    default_steps: int | None = Field(
        None, ge=1, le=100, description="Default number of denoising steps; unset means the model's."
    )
    default_guidance: float | None = Field(
        None, ge=0, le=20, description="Default guidance scale; unset means the model's."
    )
    batch_size: int = Field(
        8,
        ge=1,
        le=64,
        description="Frames in a chunk of a new walk to denoise, which a worker renders as one batch. A chunk of "
        "interpolated frames has up to 4 times as many, 64 at most.",
    )

    # Rendering. Operators, by the hardware; the chart sets DEVICE, `momalisa up` sets THREADS.
    device: str | None = Field(
        None, description="torch device of a render worker; unset means CUDA, else MPS, else the CPU."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the denoiser, the decoder and large text encoders; auto means bfloat16 for "
        "transformers and on a CPU that supports it, float16 for others on a GPU, else float32.",
    )
    offload: Offload = Field(
        "none",
        description="What waits in the memory of the machine until a GPU that has too little needs it: model, each "
        "part of the model in turn; or none.",
    )
    dense_revisions: CommaSeparated[str] = Field(
        ADMITTED,
        description="Revisions of models whose frames may be interpolated between others, separated by commas: the "
        "errors were measured and are small. `momalisa admit` measures them and prints what to set. none means no "
        "model, unset the bundled one.",
    )
    compile_cache_dir: Path | None = Field(
        None,
        description="Folder in which the render workers of a machine keep the compiled denoiser: the first start "
        "takes minutes, and rendering is faster from then on; unset means not compiled.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of a render worker, each pinned to a processor; unset means torch's default, "
        "unpinned.",
    )

    # The files of walks. Operators.
    gif_max_bytes: int = Field(
        8_000_000,
        ge=100_000,
        description="Maximum size of a GIF, since chats refuse larger ones; one that is larger gets fewer frames a "
        "second, and then fewer colours.",
    )

    # Rendering by Vertex AI. The playbook deploy-vertex.yml, or operators.
    renderer: Literal["local", "vertex"] = Field(
        "local", description="Where frames are rendered: local, in the worker; vertex, by an endpoint of Vertex AI."
    )
    vertex_endpoint: str | None = Field(
        None,
        pattern=r"^projects/[^/]+/locations/[^/]+/endpoints/[^/]+$",
        description="Resource name of the endpoint.",
    )
    vertex_url: str | None = Field(
        None,
        description="Base URL of a dedicated endpoint: https and its DNS name; unset means its region's. A plain "
        "http URL is a stand-in, to which no credentials are sent.",
    )
    vertex_timeout_seconds: float = Field(
        600,
        gt=0,
        le=3600,
        description="Timeout of the endpoint for a chunk; a shared endpoint ends requests after 60 s.",
    )
    # The container behind the endpoint. Vertex AI.
    aip_http_port: int = Field(8080, ge=1, le=65535, description="Port of the container behind an endpoint.")
    aip_health_route: str = Field("/health", description="Path of its health check.")
    aip_predict_route: str = Field("/predict", description="Path of its predictions.")

    # Users of `momalisa up`.
    workers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Number of render workers of `momalisa up`; unset means one for each GPU, or 2.",
    )

    # Access. Operators; `momalisa up` generates and stores a SECRET_KEYS.
    secret_keys: CommaSeparated[Annotated[SecretStr, Field(min_length=32)]] = Field(
        (),
        description="Keys for the cookies of visitors, separated by commas, newest first: the first signs, all are "
        "accepted. All API processes need the same. Unset means one that lasts as long as the process.",
    )
    anonymous: bool = Field(True, description="Whether walks can be created without an API key.")
    trusted_proxies: CommaSeparated[IPvAnyNetwork] = Field(
        (),
        description="Networks of the proxies whose X-Forwarded-For and X-Forwarded-Proto headers are trusted, "
        "separated by commas.",
    )
    cors_origins: CommaSeparated[str] = Field(
        (),
        description="Origins whose pages may call the API from a browser, with API keys but without cookies, "
        "separated by commas.",
    )
    blocklist: FilePath | None = Field(
        None, description="Text file of banned words and phrases, one per line; unset means none."
    )

    # Limits per tenant: an API key, or else a network address. Operators; `momalisa up` turns them off.
    rate_limits: bool = Field(True, description="Whether the limits below are enforced.")
    requests_per_minute: int = Field(600, ge=1, description="Requests per minute; a search counts as five.")
    submissions_per_minute: int = Field(20, ge=1, description="Walks submitted per minute.")
    max_waiting_walks: int = Field(20, ge=1, description="Walks that wait for workers.")
    max_open_waits: int = Field(
        100, ge=1, description="Concurrent streams and long polls of a caller in an API process."
    )
    max_process_waits: int = Field(
        2000, ge=1, description="Concurrent streams and long polls of all callers in an API process."
    )
    pixel_steps_per_day: int = Field(
        20_000_000_000,
        ge=1,
        le=10**15 - 1,
        description="Work per 24 hours: rendered pictures × width × height × denoising steps. Until a walk ends, "
        "all its frames count as denoised; then an interpolated one counts one step, and a copied one nothing.",
    )
    output_pixels_per_day: int = Field(
        2_000_000_000,
        ge=1,
        le=10**15 - 1,
        description="Output per 24 hours: frames of the animation × width × height, with repeated frames and those "
        "of large files; a walk whose files were never begun counts nothing.",
    )

    # The queue. Operators who tune recovery against load; tests shorten the times.
    lease_seconds: float = Field(
        30,
        gt=0,
        description="A worker that sends no heartbeat for this long loses its chunk; it sends three in this time.",
    )
    stall_seconds: float = Field(
        600, gt=0, description="A worker that makes no progress for this long is considered hung, and replaced."
    )
    reconcile_seconds: float = Field(5, gt=0, description="Interval between two rounds of the reconciler.")
    retention_days: float = Field(30, gt=0, description="Age at which finished walks expire, with their files.")
    max_attempts: int = Field(5, ge=1, description="Failed attempts of a chunk after which its walk fails.")
    max_queued_messages: int = Field(512, ge=1, description="Maximum wake-up messages in a queue of the broker.")

    # Webhooks. Operators; `momalisa up` generates and stores WEBHOOK_SECRET. WEBHOOK_LOOPBACK and WEBHOOK_CA are
    # for developers and tests of receivers.
    webhook_secret: SecretStr | None = Field(
        None,
        description="Master secret from which each owner's signing secret is derived: whsec_ and 24 to 64 bytes in "
        "base64; unset means no webhooks.",
    )
    webhook_loopback: bool = Field(
        False, description="Whether webhooks may be sent to this machine, even by http; for development."
    )
    webhook_ca: FilePath | None = Field(
        None, description="PEM file of the authorities that sign receivers' certificates; unset means certifi's."
    )
    webhook_timeout_seconds: float = Field(
        15, gt=0, le=30, description="Timeout of a webhook, including name resolution."
    )

    # Users of the `momalisa` command.
    momalisa_url: str | None = Field(
        None, description="Server that the `momalisa` command talks to; unset means this machine's."
    )
    momalisa_api_key: SecretStr | None = Field(None, description="API key that the `momalisa` command sends.")

    # Monitoring. Operators; the chart and Compose set METRICS_PORT and LOG_FORMAT, `momalisa up` METRICS_HOST.
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port on which a process serves `/metrics`, `/healthz` and `/readyz`; unset means none. "
        "`momalisa up` uses it for the API, and the ports after it for the other processes; a render worker on "
        "several GPUs uses those after it, too.",
    )
    metrics_host: str = Field(
        "0.0.0.0",  # noqa: S104 - probes and Prometheus call from other machines
        description="Address on which they are served; unset means all, or 127.0.0.1 under `momalisa up`.",
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None, description="Base URL of an OpenTelemetry collector (OTLP over HTTP); unset means no traces."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Format of log lines; auto means text on a terminal, else JSON."
    )
    google_cloud_project: str | None = Field(
        None,
        description="Id of the Google Cloud project that traces go to, by which log lines in JSON refer to their "
        "trace; unset means by its bare id.",
    )
    # The images set both.
    momalisa_version: str = Field(
        __version__,
        description="Version of this build in metrics and traces; unset means the package's.",
    )
    momalisa_revision: str = Field("unknown", description="Commit of this build in metrics.")

    @model_validator(mode="after")
    def _native_size_is_allowed(self) -> Self:
        if self.image_size and self.max_size and self.image_size > self.max_size:
            raise ValueError(f"IMAGE_SIZE ({self.image_size}) is larger than MAX_SIZE ({self.max_size})")
        return self

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> Self:
        if self.renderer == "vertex" and self.vertex_endpoint is None:
            raise ValueError("RENDERER=vertex needs VERTEX_ENDPOINT")
        return self

    @field_validator("loras")
    @classmethod
    def _weights_are_finite(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not isfinite(weighted(text)[1]):
                raise ValueError(f"the weight of a LoRA must be a finite number, got {text}")
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker_url_is_valid(cls, value: str) -> str:
        broker.parse(value)
        return value

    @field_validator("public_url")
    @classmethod
    def _public_url_has_no_path(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
                raise ValueError(
                    "must be http:// or https:// and a host without a path, such as https://momalisa.example"
                )
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _webhook_secret_is_valid(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            prefix, _, encoded = value.get_secret_value().partition("_")
            try:
                length = len(base64.b64decode(encoded, validate=True))
            except ValueError:
                length = 0
            if prefix != "whsec" or not 24 <= length <= 64:  # noqa: PLR2004 - as required by Standard Webhooks
                raise ValueError("must be whsec_ followed by 24 to 64 bytes in base64")
        return value

    @property
    def model_name(self) -> str:
        """The name of the model as walks and workers use it: without its folder, and with its LoRAs.

        The API needs no weights, so the folder need not exist on its machine.
        """
        loras = [(place.name, weight) for place, weight in map(weighted, self.loras)]
        named = [name if weight == 1 else f"{name}:{weight:g}" for name, weight in loras]
        return "+".join([locate(self.model).name, *named])


def _database_name(data: dict[str, object]) -> str:
    return urlsplit(str(data.get("database_url"))).path.strip("/")


@cache
def settings() -> Settings:
    """Return the settings of this process, read at the first call."""
    return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None)


def explain(error: ValidationError) -> str:
    """Return which settings are not valid, and why, in sentences."""
    wrong = (
        f"{'.'.join(map(str, item['loc'])).upper()}: {item['msg'].removeprefix('Value error, ')}."
        for item in error.errors()
    )
    return " ".join(["The settings are not valid.", *wrong])


def override(**variables: str) -> None:
    """Set environment variables, and read the settings again."""
    os.environ.update(variables)
    settings.cache_clear()


_defaults: set[str] = set()
"""Variables set by `set_default_environment`."""


def set_default_environment(**variables: str) -> None:
    """Set variables that libraries read, unless they are set already."""
    _defaults.update(variables.keys() - os.environ.keys())
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def environment(**changes: str | None) -> dict[str, str]:
    """Return the environment for a child process: this one with `changes`; None removes a variable.

    Variables set by `set_default_environment` are left out: they depend on the settings, which may differ there.
    """
    given = {name: value for name, value in os.environ.items() if name not in _defaults}
    merged: dict[str, str | None] = {**given, **changes}
    return {name: value for name, value in merged.items() if value is not None}
