"""A proxy in front of the bucket that fails on demand."""

import http.client
import socket
import struct
import threading
import time
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Trouble(StrEnum):
    """A kind of failure of the bucket."""

    UNAVAILABLE = "503"
    TOO_MANY = "429"
    FORBIDDEN = "403"  # an error that is not retried
    RESET = "reset"  # the connection is reset during the response
    HANG = "hang"  # no response at all
    SLOW = "slow"  # a few kilobytes a second
    TRUNCATE = "truncate"  # only half of an upload is forwarded


class Proxy:
    """Forwards HTTP to the bucket; while `trouble` is set, some requests fail with it."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.trouble: Trouble | None = None
        self.met = 0
        """Number of requests that failed so far."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="proxy", daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                trouble = proxy.trouble
                if trouble:
                    proxy.met += 1
                match trouble:
                    case Trouble.UNAVAILABLE | Trouble.TOO_MANY | Trouble.FORBIDDEN:
                        self.send_error(int(trouble))
                        return
                    case Trouble.HANG:
                        while proxy.trouble is Trouble.HANG:
                            time.sleep(0.05)
                        self.close_connection = True
                        return
                    case Trouble.RESET:
                        self._reset()
                        return
                    case Trouble.TRUNCATE if body:
                        self._forward_half(body)
                        self._reset()
                        return
                self._forward(body, slow=trouble is Trouble.SLOW)

            def _forward(self, body: bytes, *, slow: bool) -> None:
                connection = http.client.HTTPConnection(str(proxy.target.hostname), proxy.target.port, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                headers["Host"] = f"{proxy.target.hostname}:{proxy.target.port}"
                try:
                    connection.request(self.command, self.path, body or None, headers)
                    answer = connection.getresponse()
                    data = answer.read()
                except OSError:
                    self.send_error(502)
                    return
                finally:
                    connection.close()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "content-length", "connection", "date", "server"}:
                        self.send_header(name, value)
                if answer.status not in {204, 304}:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if not slow:
                    self.wfile.write(data)
                    return
                for start in range(0, len(data), 1024):
                    self.wfile.write(data[start : start + 1024])
                    self.wfile.flush()
                    if proxy.trouble is Trouble.SLOW:
                        time.sleep(0.2)

            def _forward_half(self, body: bytes) -> None:
                with socket.create_connection((str(proxy.target.hostname), int(proxy.target.port or 80))) as bucket:
                    head = f"{self.command} {self.path} HTTP/1.1\r\n"
                    head += "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
                    bucket.sendall(head.encode() + b"\r\n" + body[: len(body) // 2])

            def _reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def handle(self) -> None:
                try:
                    super().handle()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

        return Handler
