from __future__ import annotations

import http.server
from collections.abc import Callable, Iterator

import pytest
from chat_server import Reply, Server


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start chat servers that play a script of bodies or (status, headers, body), or call a function; stop them at the end."""
    running: list[http.server.ThreadingHTTPServer] = []

    def start(*script: Reply | bytes, answer: Callable[[str], Reply] | None = None) -> Server:
        server = Server([(200, {}, reply) if isinstance(reply, bytes) else reply for reply in script], answer)
        running.append(server.start())
        return server

    yield start
    for listening in running:
        listening.shutdown()
        listening.server_close()
