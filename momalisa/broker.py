"""Where the broker is: one dialect for BROKER_URL, which every part understands alike.

Celery and redis-py read different dialects, and where they read the same one they mean different things by it. So
an address is read here, checked once, and put into the words of each.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

DIALECTS = (
    "redis://[USER:PASSWORD@]HOST[:PORT][/DB]",
    "rediss://… for TLS",
    "unix://[USER:PASSWORD@]/PATH[?db=DB]",
    "sentinel://[USER:PASSWORD@]HOST[:PORT][;HOST[:PORT]…]/MASTER[/DB]",
)
"""What is understood; `valkey` may be written for `redis` everywhere."""

PORT, SENTINEL_PORT = 6379, 26379

_TCP = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""The schemes of one server, and whether they mean TLS."""
_SOCKETS = {"unix", "redis+unix", "valkey+unix", "redis+socket", "valkey+socket"}
_VERIFY = {"required": True, "CERT_REQUIRED": True, "none": False, "CERT_NONE": False}


@dataclass(frozen=True)
class Address:
    """Where the broker is."""

    hosts: tuple[tuple[str, int], ...] = ()
    """Of the server, or of the Sentinels that know it; none if there is a socket."""
    socket: str | None = None
    """Path of a Unix socket."""
    master: str | None = None
    """What Sentinels call the server."""
    user: str | None = None
    password: str | None = None
    db: int = 0
    tls: bool = False
    verified: bool = True
    """Whether TLS asks for a certificate of the host."""

    def login(self) -> dict[str, object]:
        """Return what redis-py wants to know beside the place."""
        return {"username": self.user, "password": self.password, "db": self.db}

    def certificates(self, authorities: Path | None) -> dict[str, object]:
        """Return what redis-py and Celery want to know of TLS, given who is trusted; None means the system's."""
        return {
            "ssl_cert_reqs": "required" if self.verified else "none",
            "ssl_check_hostname": self.verified,
            "ssl_ca_certs": None if authorities is None else str(authorities),
        }

    def celery_url(self) -> str:
        """Return the address as Celery reads it; what Sentinels call the server is not a part of it."""
        login = ""
        if self.user or self.password:
            login = f"{quote(self.user or '', safe='')}:{quote(self.password or '', safe='')}@"
        if self.socket is not None:
            return f"redis+socket://{login}{quote(self.socket)}?virtual_host={self.db}"
        scheme = "sentinel" if self.master else "rediss" if self.tls else "redis"
        places = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return ";".join(f"{scheme}://{login}{place}/{self.db}" for place in places)


def read(url: str) -> Address:
    """Return what an address says.

    Raises:
        ValueError: if no part would understand it, or not every part the same; its message repeats no password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {*_TCP, *_SOCKETS, "sentinel"}:
        known = "; ".join(DIALECTS)
        found = f", got {scheme}://" if separator else ""
        raise ValueError(f"must be one of {known}{found}")
    servers = ""
    if scheme == "sentinel":  # whose hosts are read on their own: they are several
        rest = rest.replace(";sentinel://", ";")
        place, slash, path = rest.partition("/")
        who, at, servers = place.rpartition("@")
        rest = f"{who}{at}sentinels{slash}{path}"
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError as error:
        raise ValueError("must have a host, and a port of 0 to 65535") from error
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    user, password = _text(parts.username), _text(parts.password)
    if scheme in _SOCKETS:
        if parts.hostname or not parts.path.strip("/"):
            raise ValueError("must have the path of a socket after three slashes, as in unix:///run/redis.sock")
        db = options.pop("db", options.pop("virtual_host", "0"))
        _none_left(options)
        return Address(socket=unquote(parts.path), db=_number(db), user=user, password=password)
    if scheme == "sentinel":
        master, _, number = parts.path.strip("/").partition("/")
        if not master:
            raise ValueError("must name the master, as in sentinel://one:26379;two:26379/mymaster")
        _none_left(options)
        hosts = tuple(_host(each, SENTINEL_PORT) for each in servers.replace(",", ";").split(";"))
        return Address(hosts=hosts, master=unquote(master), db=_number(number or "0"), user=user, password=password)
    tls, verified = _TCP[scheme], True
    if tls:
        demanded = options.pop("ssl_cert_reqs", "required")
        if demanded not in _VERIFY:
            raise ValueError(f"ssl_cert_reqs must be required or none, got {demanded!r}")
        verified = _VERIFY[demanded]
    db = options.pop("db", parts.path.strip("/") or "0")
    _none_left(options)
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
        raise ValueError("must have a host, and a port of 0 to 65535") from error
    if not found[0]:
        raise ValueError("must have a host between two semicolons")
    return found[0], found[1]


def _text(quoted: str | None) -> str | None:
    return unquote(quoted) if quoted else None


def _number(db: str) -> int:
    if not (db.isascii() and db.isdecimal()):
        raise ValueError(f"must name the database by a number, got {db!r}")
    return int(db)


def _none_left(options: dict[str, str]) -> None:
    if options:
        raise ValueError(f"understands no {' and no '.join(sorted(options))} after the question mark")
