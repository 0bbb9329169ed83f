"""Every setting of MoMALisa, typed and read once; the only module that reads the environment."""

import base64
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, FilePath, IPvAnyNetwork, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from momalisa import broker

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: `models/`, `frontend/` and `migrations/` lie beside the packages."""

BUNDLED_MODEL = str(ROOT / "models" / "momalisa-mini")


def _split(value: object) -> object:
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


SECRETS = Path("/run/secrets")
"""Settings may also be files here, named like their variables in lower case, as containers are given secrets."""

Word = TypeVar("Word")
CommaSeparated = Annotated[tuple[Word, ...], NoDecode, BeforeValidator(_split)]
"""Several values in one environment variable, separated by commas."""


class Settings(BaseSettings):
    """What an operator can set, each by the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address on which the API listens.")
    port: int = Field(8000, ge=1, le=65535, description="Port on which the API listens.")

    database_url: str = Field(
        "postgresql+psycopg://momalisa@localhost/momalisa",
        repr=False,  # it may hold a password
        description="SQLAlchemy URL of PostgreSQL, which holds the truth.",
    )
    broker_url: str = Field(
        "redis://localhost:6379/0",
        repr=False,
        description="URL of Redis or Valkey, which carries hints: redis, rediss (TLS), unix or sentinel.",
    )
    broker_ca: FilePath | None = Field(
        None, description="PEM file of the authorities that the broker is trusted by; unset means the system's."
    )

    bucket: str = Field("momalisa", description="Name of the Google Cloud Storage bucket.")
    queue_prefix: str = Field(
        default_factory=lambda data: f"{data.get('bucket')}:{_database_name(data)}:",
        description="What all keys of the broker begin with, so that several systems share one; unset means the "
        "names of the bucket and of the database.",
    )
    bucket_endpoint: str | None = Field(
        None, description="Base URL of an emulator of the bucket API; unset means Google's own."
    )
    bucket_public_url: str | None = Field(
        None,
        description="Base URL at which browsers find the bucket, or a path at which the website's own host leads "
        "there; at /files the API itself reads them out of BUCKET_ENDPOINT. Unset means that of the bucket API.",
    )
    signed_urls: bool = Field(
        False,
        description="Whether the bucket is private: then its files are had by signed URLs only, which the API "
        "signs with its credentials: a service account's key, or IAM.",
    )
    signed_url_seconds: int = Field(
        24 * 3600,
        ge=60,
        le=7 * 24 * 3600,
        description="How long a signed URL holds; one that is given out now holds for at least half of it.",
    )
    public_url: str | None = Field(
        None,
        description="Base URL of the website as visitors see it, a host without a path. Unset, links are made of "
        "the Host header of a request if it names a machine nearby (localhost, a private address, a name with no "
        "dot, or one under .local, .internal or .home.arpa), and are relative otherwise.",
    )

    security_contact: str | None = Field(
        None,
        pattern=r"^(mailto:|https://|tel:)\S+$",
        description="Where to report a vulnerability of this site: a mailto:, https: or tel: URI, which "
        "/.well-known/security.txt then names; unset means no such file.",
    )

    model: str = Field(
        BUNDLED_MODEL, description="A diffusers text-to-image pipeline: a folder, or a name on the Hub."
    )
    image_size: int = Field(
        default_factory=lambda data: 128 if _embedded(data) else 512,
        ge=64,
        multiple_of=8,
        description="Side of the model's native picture, in pixels.",
    )
    max_size: int = Field(
        default_factory=lambda data: 2 * data["image_size"],
        ge=64,
        multiple_of=8,
        description="Longest side that may be asked for, in pixels.",
    )
    default_steps: int = Field(
        default_factory=lambda data: 8 if _embedded(data) else 20,
        ge=1,
        le=100,
        description="Denoising steps when a walk names none.",
    )
    default_guidance: float = Field(
        default_factory=lambda data: 2.0 if _embedded(data) else 7.5,
        ge=0,
        le=20,
        description="Guidance scale when a walk names none.",
    )
    batch_size: int = Field(8, ge=1, le=64, description="Frames in a chunk, which a worker renders as one batch.")
    device: str | None = Field(None, description="torch device of a render worker; unset means CUDA, else the CPU.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="What the denoiser and the decoder compute with; auto means float16 on a GPU, bfloat16 on a "
        "CPU that has it, else float32.",
    )
    compiled_folder: Path | None = Field(
        None,
        description="Folder in which the render workers of a machine keep the denoiser compiled: minutes at the "
        "first start, faster from then on; unset means not compiled.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of a render worker, each with a processor for itself; unset means as many as "
        "torch takes, on processors that others may use, too.",
    )

    renderer: Literal["local", "vertex"] = Field(
        "local", description="Who renders: local, the worker itself; vertex, an endpoint of Vertex AI."
    )
    vertex_endpoint: str | None = Field(
        None,
        pattern=r"^projects/[^/]+/locations/[^/]+/endpoints/[^/]+$",
        description="Resource name of the endpoint that renders.",
    )
    vertex_url: str | None = Field(
        None,
        description="Base URL of a dedicated endpoint: https and its DNS name; unset means its region's. By http "
        "it is a stand-in that is sent no credentials.",
    )
    vertex_seconds: float = Field(
        600,
        gt=0,
        le=3600,
        description="Time that the endpoint has for a chunk; a shared one takes 60 at most.",
    )
    aip_http_port: int = Field(8080, ge=1, le=65535, description="Port of the container behind an endpoint.")
    aip_health_route: str = Field("/health", description="Path at which that container tells whether it is ready.")
    aip_predict_route: str = Field("/predict", description="Path at which that container renders.")

    workers: int = Field(2, ge=1, le=64, description="Render workers of a system on one machine.")

    secret_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="Signs the cookies of visitors; all API processes need the same. Unset means one that lasts as "
        "long as the process.",
    )
    anonymous: bool = Field(True, description="Whether walks can be made without an API key.")
    trusted_proxies: CommaSeparated[IPvAnyNetwork] = Field(
        (),
        description="Networks, separated by commas, of the proxies whose X-Forwarded-For and X-Forwarded-Proto "
        "are believed.",
    )
    cors_origins: CommaSeparated[str] = Field(
        (),
        description="Origins, separated by commas, whose pages may call the API from a browser, with keys but "
        "without the cookies of visitors.",
    )

    blocklist: FilePath | None = Field(
        None, description="Text file with words and phrases, one a line, that no prompt may hold; unset means none."
    )

    rate_limits: bool = Field(True, description="Whether callers are held to the limits below; on or off.")
    requests_per_minute: int = Field(
        600, ge=1, description="Requests of an API key, or else of an address; a search for a word counts as five."
    )
    submissions_per_minute: int = Field(20, ge=1, description="Walks that one of them may submit in a minute.")
    max_waiting_walks: int = Field(20, ge=1, description="Walks of one of them that may wait for workers at once.")
    max_open_waits: int = Field(
        100, ge=1, description="Streams, and answers that are held back, of one of them at once in an API process."
    )
    max_process_waits: int = Field(
        2000, ge=1, description="Streams, and answers that are held back, of all callers at once in an API process."
    )
    pixel_steps_per_day: int = Field(
        20_000_000_000,
        ge=1,
        le=10**15 - 1,
        description="Work that one of them may order in 24 hours: frames × width × height × denoising steps.",
    )
    output_pixels_per_day: int = Field(
        2_000_000_000,
        ge=1,
        le=10**15 - 1,
        description="Pixels that one of them may have stitched in 24 hours: frames of the animation × width × "
        "height, those that are held or come back counted each time.",
    )

    lease_seconds: float = Field(
        30, gt=0, description="A worker that is silent this long loses its chunk; it sends three heartbeats."
    )
    stall_seconds: float = Field(
        600, gt=0, description="A worker that makes no step for this long is taken for hung, and replaced."
    )
    reconcile_seconds: float = Field(5, gt=0, description="Time between two rounds of the reconciler.")
    retention_days: float = Field(30, gt=0, description="Finished walks expire after this time, with their files.")
    max_attempts: int = Field(5, ge=1, description="A chunk that failed this often fails its walk.")
    max_queued_messages: int = Field(512, ge=1, description="Wake-up messages in a queue of the broker at most.")

    webhook_secret: SecretStr | None = Field(
        None,
        description="What the secrets of all who get webhooks are made from: whsec_ and 24 to 64 bytes in base64; "
        "unset means no webhooks.",
    )
    webhook_loopback: bool = Field(
        False, description="Whether webhooks may go to this machine itself, by http, too; for development."
    )
    webhook_ca: FilePath | None = Field(
        None, description="PEM file of the authorities that receivers are trusted by; unset means certifi's."
    )
    webhook_seconds: float = Field(
        15, gt=0, le=30, description="Time that a receiver has to take a webhook, from the first look at its name."
    )

    momalisa_url: str | None = Field(
        None, description="The server that the `momalisa` command talks to; unset means this machine's own."
    )
    momalisa_api_key: SecretStr | None = Field(None, description="The key that the `momalisa` command shows it.")

    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port on which a part answers `/metrics`, `/healthz` and `/readyz`; unset means none. "
        "`momalisa up` gives it to the API, and those that follow to the other parts.",
    )
    metrics_host: str = Field(
        "0.0.0.0",  # noqa: S104 - probes and Prometheus come from elsewhere
        description="Address on which it does; unset means all, but this machine's own under `momalisa up`.",
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="Base URL of an OpenTelemetry collector that takes traces by OTLP over HTTP; unset means none.",
    )

    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="How log lines are written; auto means text on a terminal, else JSON."
    )

    @model_validator(mode="after")
    def _native_size_is_allowed(self) -> Self:
        if self.image_size > self.max_size:
            raise ValueError(f"IMAGE_SIZE ({self.image_size}) is larger than MAX_SIZE ({self.max_size})")
        return self

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> Self:
        if self.renderer == "vertex" and self.vertex_endpoint is None:
            raise ValueError("RENDERER=vertex needs VERTEX_ENDPOINT")
        return self

    @field_validator("broker_url")
    @classmethod
    def _every_part_understands_it(cls, value: str) -> str:
        broker.read(value)
        return value

    @field_validator("public_url")
    @classmethod
    def _site_has_a_host_for_itself(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
                raise ValueError(
                    "must be http:// or https:// and a host, such as https://momalisa.example, without a path: "
                    "the website has its host for itself"
                )
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _secret_can_sign(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            prefix, _, encoded = value.get_secret_value().partition("_")
            try:
                length = len(base64.b64decode(encoded, validate=True))
            except ValueError:
                length = 0
            if prefix != "whsec" or not 24 <= length <= 64:  # noqa: PLR2004 - as Standard Webhooks say
                raise ValueError("must be whsec_ followed by 24 to 64 bytes in base64")
        return value

    @property
    def model_name(self) -> str:
        """The model's name without the folders that lead to it, which need not be on this machine.

        The API has no use for the weights, but it and the workers must know the model by the same name.
        """
        path = Path(self.model)
        return path.name if path.is_absolute() or path.exists() else self.model


def _embedded(data: dict[str, object]) -> bool:
    """Tell whether the model is the embedded one, which needs few steps and little guidance."""
    return Path(str(data.get("model"))).resolve() == Path(BUNDLED_MODEL)


def _database_name(data: dict[str, object]) -> str:
    return urlsplit(str(data.get("database_url"))).path.strip("/")


@cache
def settings() -> Settings:
    """Return the settings of this process, read from the environment at the first call."""
    return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None)


def override(**variables: str) -> None:
    """Put variables in place of those of the environment, from now on."""
    os.environ.update(variables)
    settings.cache_clear()


_suggested: set[str] = set()
"""The variables that this process suggested to itself."""


def set_default_environment(**variables: str) -> None:
    """Put variables of libraries into the environment, unless they are set there on purpose."""
    _suggested.update(variables.keys() - os.environ.keys())
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def environment(**changes: str | None) -> dict[str, str]:
    """Return this process's environment with `changes`, for a child process; None removes a variable.

    What was suggested to this process is left out: a child, whose settings may be others, decides for itself.
    """
    given = {name: value for name, value in os.environ.items() if name not in _suggested}
    merged: dict[str, str | None] = {**given, **changes}
    return {name: value for name, value in merged.items() if value is not None}
