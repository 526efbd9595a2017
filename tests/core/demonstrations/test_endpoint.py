"""The chat endpoint against a real HTTP server on this machine."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from chat_server import Server, chat

from drirl_core.demonstrations.endpoint import ChatEndpoint, EndpointError, PromptRefused
from drirl_core.errors import ConfigError

KEY = "sk-very-secret-0123456789"


def ask(server: Server, **settings: Any) -> str:
    endpoint = ChatEndpoint(server.url, "writer", **{"backoff_s": 0.01, "tries": 3, "timeout_s": 5.0, **settings})
    return endpoint.reply("hello", temperature=0.5, max_new_tokens=7)


def test_a_completion_is_returned_and_the_request_has_the_right_form(serve: Callable[..., Server]) -> None:
    server = serve(chat("a\n####\nI can't."))
    assert ask(server) == "a\n####\nI can't."
    assert server.paths == ["/v1/chat/completions"]
    assert server.seen == [
        {"model": "writer", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5, "max_tokens": 7}
    ]
    assert "Authorization" not in server.headers[0]


def test_the_full_path_may_be_given(serve: Callable[..., Server]) -> None:
    server = serve(chat("x"))
    server.url += "/chat/completions/"
    assert ask(server) == "x"
    assert server.paths == ["/v1/chat/completions"]


def test_the_key_goes_into_the_header_only(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("WRITER_KEY", f" {KEY}\n")
    server = serve(chat("x"))
    ask(server, api_key_env="WRITER_KEY")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(server.seen) + caplog.text + repr(ChatEndpoint(server.url, "m", "WRITER_KEY"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(serve: Callable[..., Server], status: int) -> None:
    server = serve((status, {}, b"busy"), chat("done"))
    assert ask(server) == "done"
    assert len(server.seen) == 2


def test_retry_after_is_obeyed(serve: Callable[..., Server]) -> None:
    server = serve((429, {"Retry-After": "1"}, b""), chat("done"))
    started = time.monotonic()
    assert ask(server) == "done"
    assert time.monotonic() - started >= 1.0


def test_a_server_busy_to_the_end_is_an_error_with_the_count(serve: Callable[..., Server]) -> None:
    server = serve((429, {}, b"busy"))
    with pytest.raises(EndpointError, match=r"429 Too Many Requests, 3 times"):
        ask(server)
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "api_key_env"), (403, "may not use"), (404, "/v1"), (405, "POST"), (418, "refused")]
)
def test_a_refused_request_is_not_repeated_and_never_shows_the_key(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, status: int, advice: str
) -> None:
    monkeypatch.setenv("WRITER_KEY", KEY)
    server = serve((status, {}, f"Incorrect API key provided: {KEY}".encode()))
    with pytest.raises(EndpointError) as caught:
        ask(server, api_key_env="WRITER_KEY")
    assert len(server.seen) == 1
    assert str(status) in str(caught.value)
    assert advice in str(caught.value)
    assert "Incorrect API key provided: [key]" in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_redirect_is_not_followed_so_the_key_is_not_sent_elsewhere(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRITER_KEY", KEY)
    elsewhere = serve(chat("caught"))
    server = serve((302, {"Location": elsewhere.url}, b""))
    with pytest.raises(EndpointError, match="redirects"):
        ask(server, api_key_env="WRITER_KEY")
    assert elsewhere.headers == []


def test_what_a_server_repeats_in_a_header_is_not_logged(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("WRITER_KEY", KEY)
    ask(serve((200, {"X-Seen": f"Bearer {KEY}"}, chat("x"))), api_key_env="WRITER_KEY")
    assert KEY not in caplog.text


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_refused_message_has_its_own_error(serve: Callable[..., Server], status: int) -> None:
    with pytest.raises(PromptRefused, match=f"{status} .*content filter"):
        ask(serve((status, {}, b"content filter")))


def test_a_completion_cut_by_the_length_limit_is_not_used(serve: Callable[..., Server]) -> None:
    with pytest.raises(PromptRefused, match="7 tokens"):
        ask(serve(chat("asks to", finish="length")))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"",
        b"{}",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_no_chat_completion_is_an_error(serve: Callable[..., Server], body: bytes) -> None:
    with pytest.raises(EndpointError, match="not the JSON of a chat completion"):
        ask(serve(body))


def test_parts_and_missing_text_are_read(serve: Callable[..., Server]) -> None:
    parts = {"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]}
    assert ask(serve(json.dumps(parts).encode())) == "ab"
    assert ask(serve(chat(None))) == ""


def test_a_silent_server_times_out(serve: Callable[..., Server]) -> None:
    server = serve(chat("late"))
    server.delay_s = 0.5
    with pytest.raises(EndpointError, match=r"no answer within 0.1 s, 2 times"):
        ask(server, timeout_s=0.1, tries=2)


def test_a_very_slow_server_times_out(serve: Callable[..., Server]) -> None:
    server = serve(chat("x" * 200))
    server.trickle = True
    with pytest.raises(EndpointError, match=r"no answer within 0.2 s"):
        ask(server, timeout_s=0.2, tries=1)


def test_a_refused_connection_is_reported_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    endpoint = ChatEndpoint(f"http://127.0.0.1:{port}/v1", "m", backoff_s=30)
    with pytest.raises(EndpointError, match="connection refused"):
        endpoint.reply("x", temperature=0, max_new_tokens=1)


def test_a_port_that_is_no_number_is_reported_at_once() -> None:
    endpoint = ChatEndpoint("http://127.0.0.1:port/v1", "m", backoff_s=30)
    with pytest.raises(EndpointError, match=r"no request can be sent there \(InvalidURL\)"):
        endpoint.reply("x", temperature=0, max_new_tokens=1)


def test_an_unknown_host_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    monkeypatch.setenv("NO_PROXY", "*")
    endpoint = ChatEndpoint("http://nowhere.example/v1", "m", backoff_s=30)
    with pytest.raises(EndpointError, match=r"address is not known \(Name or service not known\)"):
        endpoint.reply("x", temperature=0, max_new_tokens=1)


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "is not set"), ("  ", "is not set"), ("two words", "is no key"), (f"{KEY}\n{KEY}", "is no key")],
)
def test_a_bad_key_is_reported_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    monkeypatch.delenv("WRITER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("WRITER_KEY", value)
    with pytest.raises(EndpointError, match=message) as caught:
        ChatEndpoint("http://127.0.0.1:9/v1", "m", "WRITER_KEY").reply("x", temperature=0, max_new_tokens=1)
    assert "WRITER_KEY" in str(caught.value)
    assert value is None or not value.strip() or value.split()[0] not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "127.0.0.1:8000", "http://", "http://me:pass@host/v1", "https://host/v1?key=abc"]
)
def test_a_bad_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ChatEndpoint(url, "m")
    assert "pass@" not in str(caught.value)
    assert "abc" not in str(caught.value)
