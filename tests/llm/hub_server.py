"""A hub on a free loopback port, as far as fetching a model goes: a list of files, and the files from any byte on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`files` of one model. `cut` says after how many bytes the connection is closed, once, `stall` after how many the
    server falls silent until `go`. `seen` holds each file asked for, with its Range."""

    repository: str = "tiny/model"
    files: dict[str, bytes] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    lies: set[str] = field(default_factory=set)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    stalled: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def listing(self) -> bytes:
        siblings = []
        for name, data in self.files.items():
            each = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(b"lie" if name in self.lies else data).hexdigest()
                each["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 100}
            siblings.append(each)
        return json.dumps({"id": self.repository, "sha": COMMIT, "siblings": siblings, "tags": []}).encode()


def of_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Not here."""

        def do_GET(self) -> None:
            hub.tokens.add(self.headers.get("authorization"))
            path = unquote(self.path.split("?")[0])
            if hub.refusal is not None:
                self._answer(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]})
            elif path == f"/api/models/{hub.repository}/revision/main":
                self._answer(200, hub.listing(), {"Content-Type": "application/json"})
            elif path.startswith("/api/models/"):
                code = "RevisionNotFound" if path.startswith(f"/api/models/{hub.repository}/") else "RepoNotFound"
                self._answer(404, b"{}", {"X-Error-Code": code})
            elif match := re.fullmatch(f"/{hub.repository}/resolve/{COMMIT}/(.+)", path):
                self._file(match[1])
            else:
                self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

        def _file(self, name: str) -> None:
            wanted = self.headers.get("range")
            hub.seen.append((name, wanted))
            data = hub.files[name]
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0  # type: ignore[index]
            head = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
            self._head(206 if wanted else 200, len(data) - start, head)
            end = hub.cut.pop(name, hub.stall.get(name, len(data)) if not wanted else len(data))
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data[start:end])
                self.wfile.flush()
                if name in hub.stall and not wanted:
                    hub.stalled.set()
                    hub.go.wait(30)
            if end < len(data):
                self.close_connection = True

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self._head(status, len(body), headers)
            self.wfile.write(body)

        def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(length), "X-Repo-Commit": COMMIT}.items():
                self.send_header(name, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.go.set()
        server.shutdown()
        server.server_close()
        thread.join()
