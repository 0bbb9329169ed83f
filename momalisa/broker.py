"""The address of the broker: BROKER_URL is parsed here, and passed on to Celery and redis-py in the form of each.

The two accept different URLs, and read some of them differently.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

FORMATS = (
    "redis://[USER:PASSWORD@]HOST[:PORT][/DB]",
    "rediss://… for TLS",
    "unix://[USER:PASSWORD@]/PATH[?db=DB]",
    "sentinel://[USER:PASSWORD@]HOST[:PORT][;HOST[:PORT]…]/MASTER[/DB]",
)
"""The URLs that are accepted; the schemes may also say `valkey` instead of `redis`."""

PORT, SENTINEL_PORT = 6379, 26379

_TCP = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""The schemes for a server, and whether they mean TLS."""
_SOCKETS = {"unix", "redis+unix", "valkey+unix", "redis+socket", "valkey+socket"}
_VERIFY = {"required": True, "CERT_REQUIRED": True, "none": False, "CERT_NONE": False}


@dataclass(frozen=True)
class Address:
    """The address of the broker."""

    hosts: tuple[tuple[str, int], ...] = ()
    """Host and port of the server, or of each of its Sentinels; none if there is a socket."""
    socket: str | None = None
    """Path of its Unix socket."""
    master: str | None = None
    """Name by which the Sentinels know the server."""
    user: str | None = None
    password: str | None = None
    db: int = 0
    tls: bool = False
    verified: bool = True
    """Whether TLS verifies the certificate of the host."""

    def login(self) -> dict[str, object]:
        """Return the arguments of redis-py for user, password and database."""
        return {"username": self.user, "password": self.password, "db": self.db}

    def certificates(self, authorities: Path | None) -> dict[str, object]:
        """Return the TLS arguments of redis-py and Celery.

        Args:
            authorities: PEM file of the trusted authorities; None means the system's.
        """
        return {
            "ssl_cert_reqs": "required" if self.verified else "none",
            "ssl_check_hostname": self.verified,
            "ssl_ca_certs": None if authorities is None else str(authorities),
        }

    def celery_url(self) -> str:
        """Return the address as Celery reads it, without the master's name, which is an option of its own."""
        login = ""
        if self.user or self.password:
            login = f"{quote(self.user or '', safe='')}:{quote(self.password or '', safe='')}@"
        if self.socket is not None:
            return f"redis+socket://{login}{quote(self.socket)}?virtual_host={self.db}"
        scheme = "sentinel" if self.master else "rediss" if self.tls else "redis"
        places = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return ";".join(f"{scheme}://{login}{place}/{self.db}" for place in places)


def parse(url: str) -> Address:
    """Parse BROKER_URL.

    Raises:
        ValueError: if it is invalid or ambiguous; the message does not contain the password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {*_TCP, *_SOCKETS, "sentinel"}:
        known = "; ".join(FORMATS)
        found = f", got {scheme}://" if separator else ""
        raise ValueError(f"must be one of {known}{found}")
    servers = ""
    if scheme == "sentinel":  # urlsplit does not take several hosts
        rest = rest.replace(";sentinel://", ";")
        netloc, slash, path = rest.partition("/")
        login, at, servers = netloc.rpartition("@")
        rest = f"{login}{at}sentinels{slash}{path}"
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError as error:
        raise ValueError("must have a valid host, and a port from 0 to 65535") from error
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    user, password = _unquoted(parts.username), _unquoted(parts.password)
    if scheme in _SOCKETS:
        if parts.hostname or not parts.path.strip("/"):
            raise ValueError("must have the path of a socket after three slashes, as in unix:///run/redis.sock")
        db = options.pop("db", options.pop("virtual_host", "0"))
        _refuse_rest(options)
        return Address(socket=unquote(parts.path), db=_number(db), user=user, password=password)
    if scheme == "sentinel":
        master, _, number = parts.path.strip("/").partition("/")
        if not master:
            raise ValueError("must name the master, as in sentinel://one:26379;two:26379/mymaster")
        _refuse_rest(options)
        hosts = tuple(_host(each, SENTINEL_PORT) for each in servers.replace(",", ";").split(";"))
        return Address(hosts=hosts, master=unquote(master), db=_number(number or "0"), user=user, password=password)
    tls, verified = _TCP[scheme], True
    if tls:
        requested = options.pop("ssl_cert_reqs", "required")
        if requested not in _VERIFY:
            raise ValueError(f"ssl_cert_reqs must be required or none, got {requested!r}")
        verified = _VERIFY[requested]
    db = options.pop("db", parts.path.strip("/") or "0")
    _refuse_rest(options)
    if not parts.hostname:
        raise ValueError("must have a host")
    return Address(
        hosts=((parts.hostname, port or PORT),),
        db=_number(db),
        tls=tls,
        verified=verified,
        user=user,
        password=password,
    )


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts: SplitResult = urlsplit(f"//{text}")
        found = parts.hostname, parts.port or port
    except ValueError as error:
        raise ValueError("must have a valid host, and a port from 0 to 65535") from error
    if not found[0]:
        raise ValueError("must have a host before and after each semicolon")
    return found[0], found[1]


def _unquoted(quoted: str | None) -> str | None:
    return unquote(quoted) if quoted else None


def _number(db: str) -> int:
    if not (db.isascii() and db.isdecimal()):
        raise ValueError(f"must give the database as a number, got {db!r}")
    return int(db)


def _refuse_rest(options: dict[str, str]) -> None:
    if options:
        raise ValueError(f"has unknown parameters: {', '.join(sorted(options))}")
