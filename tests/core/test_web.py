"""One request and its answer, against a real HTTP server on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from chat_server import Server

from drirl_core import web


def send(server: Server, *, most: int = 100, timeout_s: float = 5.0) -> web.Answer:
    return web.post(server.url, b'{"messages": []}', headers={"X-More": "yes"}, timeout_s=timeout_s, most=most)


def test_an_answer_comes_back(serve: Callable[..., Server]) -> None:
    server = serve(b"done")
    assert send(server) == web.Answer(200, b"done", cut=False)
    assert server.seen == [{"messages": []}]
    sent = server.headers[0]
    assert (sent["Content-Type"], sent["X-More"], sent["Accept-Encoding"]) == ("application/json", "yes", "identity")


def test_a_redirect_is_an_answer(serve: Callable[..., Server]) -> None:
    elsewhere = serve(b"caught")
    server = serve((302, {"Location": elsewhere.url}, b""))
    assert send(server).status == 302
    assert elsewhere.seen == []


def test_a_body_is_read_up_to_a_limit(serve: Callable[..., Server]) -> None:
    assert send(serve(b"12345"), most=5) == web.Answer(200, b"12345", cut=False)
    assert send(serve(b"123456"), most=5) == web.Answer(200, b"12345", cut=True)
    assert send(serve(b"12345"), most=0) == web.Answer(200, b"", cut=False)
    assert send(serve((400, {}, b"x" * 3000)), most=9000) == web.Answer(400, b"x" * 2000, cut=False)


def test_a_status_counts_although_its_text_never_ends(serve: Callable[..., Server]) -> None:
    server = serve((404, {}, b"x" * 200))
    server.trickle = True
    assert send(server, timeout_s=0.2).status == 404


@pytest.mark.parametrize(("asked", "after"), [("7", 7.0), ("soon", 0.0), ("\u00b2", 0.0)])
def test_a_busy_server_may_say_when_to_come_back(serve: Callable[..., Server], asked: str, after: float) -> None:
    with pytest.raises(web.TryAgain, match="it answered 503 Service Unavailable") as caught:
        send(serve((503, {"Retry-After": asked}, b"")))
    assert caught.value.after_s == after


def test_the_waits_double_follow_the_server_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff 2: waits 2, 4, then the 9 asked for instead of 8, then the limit instead of the 1000 asked for."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    asked = iter([0.0, 0.0, 9.0, 1000.0])

    def busy() -> web.Answer:
        after = next(asked, None)
        if after is None:
            return web.Answer(200, b"", cut=False)
        raise web.TryAgain("busy", after)

    assert web.in_tries(busy, 5, 2.0).status == 200
    assert waits == [2.0, 4.0, 9.0, web.LONGEST_WAIT_S]


def test_the_last_try_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def busy() -> web.Answer:
        raise web.TryAgain("busy")

    with pytest.raises(web.TryAgain, match="busy, 3 times in a row"):
        web.in_tries(busy, 3, 1.0)
    assert waits == [1.0, 2.0]
