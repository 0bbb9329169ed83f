"""A receiver of webhooks: an HTTPS server on this machine, with a certificate of its own authority."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.serving import serving

NAMES = ("receiver.test", "*.receiver.test", "localhost")
"""The names in the certificate of a receiver."""

Answer = Callable[[BaseHTTPRequestHandler], None]
"""Answers a request after its body was read."""


@dataclass(frozen=True)
class Delivery:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Receiver:
    """A receiver: its address, its authority, and the requests that it received."""

    port: int
    authority: Path
    """PEM file of the authority that issued its certificate."""
    answers: list[Answer]
    """Its responses, in order; the last one repeats."""
    got: list[Delivery] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://receiver.test:{self.port}/hook?walk=1"

    def resolve(self, host: str, port: int) -> list[str]:  # noqa: ARG002
        """Resolve every name to this receiver."""
        return ["127.0.0.1"]


def status(code: int, **headers: str) -> Answer:
    """Return a responder that sends a status and headers without a body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("content-length", "0")
        request.end_headers()

    return answer


@contextmanager
def listening(folder: Path, *answers: Answer) -> Iterator[Receiver]:
    """Run a receiver during the block; it answers 204 by default."""
    authority, chain = certificates(folder, *NAMES)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            receiver.got.append(Delivery(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            receiver.answers[min(len(receiver.got), len(receiver.answers)) - 1](self)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Ignore senders that disconnect."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(server.server_port, authority, list(answers) or [status(204)])
    with serving(server):
        yield receiver


def certificates(folder: Path, *names: str) -> tuple[Path, Path]:
    """Create an authority, and a certificate with its key for some hosts; return both files."""
    now = datetime.now(UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, subject = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]) for common in ("An authority", names[0])
    )

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(authority_name)
            .subject_name(subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    authority = (
        builder(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        builder(subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    authority_file, chain = folder / "authority.pem", folder / "chain.pem"
    authority_file.write_bytes(authority.public_bytes(pem))
    chain.write_bytes(certificate.public_bytes(pem) + private)
    return authority_file, chain
