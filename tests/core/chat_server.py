"""A real HTTP server on this machine that plays a script, and the body of a chat completion."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def chat(text: str | None, finish: str = "stop") -> bytes:
    """Return the body of a chat completion."""
    return json.dumps(
        {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    ).encode()


@dataclass
class Server:
    """Plays (status, headers, body) replies in turn, the last one for ever, or asks `answer`; remembers what it was sent."""

    script: list[Reply]
    answer: Callable[[str], Reply] | None = None
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    delay_s: float = 0.0
    trickle: bool = False

    def start(self) -> http.server.ThreadingHTTPServer:
        """Listen on a free port."""
        server, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.seen.append(body)
                    server.headers.append(dict(self.headers))
                    server.paths.append(self.path)
                    number = len(server.seen)
                if server.answer:
                    status, headers, reply = server.answer(body["messages"][0]["content"])
                else:
                    status, headers, reply = server.script[min(number, len(server.script)) - 1]
                time.sleep(server.delay_s)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(reply))}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for part in [reply[i : i + 1] for i in range(len(reply))] if server.trickle else [reply]:
                        self.wfile.write(part)
                        time.sleep(0.02 if server.trickle else 0)
                except OSError:  # the client gave up, as it should
                    pass

            def log_message(self, *_: Any) -> None:
                """Keep the tests' output clean."""

        listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
        return listening
