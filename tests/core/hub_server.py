"""A server on this machine that plays the part of the Hugging Face hub's API which publishing uses."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TOKEN = "hf_abcdefghijklmnop"


class FakeHub:
    """Repositories in memory: by name whether it is private, and its files.

    Attributes:
        repositories: name to `{"private": bool, "files": {name: bytes}}`.
        commits: messages, the oldest first.
        refuse: status with which commits are refused; 0 for none.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.commits: list[str] = []
        self.asked: list[str] = []
        self.refuse = 0
        self.url = ""


@contextmanager
def running() -> Iterator[FakeHub]:
    """Serve a hub on 127.0.0.1."""
    hub = FakeHub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: FakeHub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _send(self, value: Any, status: int = 200, code: str = "") -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_GET(self) -> None:
            hub.asked.append(f"GET {self.path}")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._send({"error": "Invalid username or password."}, 401)
            if self.path == "/api/whoami-v2":
                return self._send({"type": "user", "name": "me", "orgs": []})
            name = self.path.partition("?")[0].removeprefix("/api/models/")
            found = hub.repositories.get(name)
            if found is None:
                return self._send({"error": "Repository not found"}, 404, "RepoNotFound")
            siblings = [{"rfilename": file} for file in sorted(found["files"])]
            return self._send(
                {"id": name, "private": found["private"], "siblings": siblings, "sha": "0" * 40, "tags": []}
            )

        def do_POST(self) -> None:
            hub.asked.append(f"POST {self.path}")
            body = self._body()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._send({"error": "Invalid username or password."}, 401)
            if self.path == "/api/validate-yaml":
                return self._send({"errors": [], "warnings": []})
            if self.path == "/api/repos/create":
                wanted = json.loads(body)
                name = f"{wanted['organization']}/{wanted['name']}"
                private = wanted.get("visibility") == "private" or wanted.get("private") is True
                hub.repositories[name] = {"private": private, "files": {".gitattributes": b""}}
                return self._send({"url": f"{hub.url}/{name}", "name": name, "id": "1"})
            name, _, action = (
                self.path.partition("?")[0].removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
            )
            if action == "preupload":
                files = [file["path"] for file in json.loads(body)["files"]]
                return self._send(
                    {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]}
                )
            if hub.refuse:
                return self._send({"error": f"no, {TOKEN} may not"}, hub.refuse)
            for line in map(json.loads, body.splitlines()):
                value, files = line["value"], hub.repositories[name]["files"]
                if line["key"] == "header":
                    hub.commits.append(value["summary"])
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            return self._send(
                {"success": True, "commitOid": "1" * 40, "commitUrl": f"{hub.url}/{name}/commit/{'1' * 40}"}
            )

    return Handler
