"""One HTTP request and its answer: for the demonstrator's endpoint and for the webhooks of alerts.

The URL of a webhook and the header of an endpoint hold secrets. So no redirect is followed, no logger is told an
address or a header, and errors do not repeat the library's own texts.
"""

from __future__ import annotations

import contextlib
import functools
import http
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

    import httpx

LONGEST_WAIT_S = 60.0
"""Longest wait before another try, whatever the server asks for."""

_BUSY = frozenset({408, 409, 425, 429})
_LONGEST_COMPLAINT = 2000
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_TALKATIVE = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
"""Loggers that are told every URL, or headers in which a server may repeat it."""


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Args:
        status: HTTP status, none that asks for another try.
        body: the text as bytes: of a success in full, of an error its beginning.
        cut: whether the body is longer than was asked for, and cut off there.
    """

    status: int
    body: bytes
    cut: bool


class TryAgain(Exception):
    """Say that another try may succeed.

    Args:
        problem: what went wrong, in words that hold no address.
        after_s: seconds that the server asks to wait; 0 when it does not.
        cause: the underlying error of the system, None when there was an answer, silence or none.
    """

    def __init__(self, problem: str, after_s: float = 0.0, cause: OSError | None = None) -> None:
        super().__init__(problem)
        self.problem, self.after_s, self.cause = problem, after_s, cause


class UnusableAddress(Exception):
    """Say that no request can be sent to this address; the text names the kind of error only."""


def post(url: str, data: bytes, *, headers: Mapping[str, str] | None = None, timeout_s: float, most: int = 0) -> Answer:
    """Send JSON to an address once.

    Args:
        url: an address that starts with http:// or https://.
        data: the JSON.
        headers: further headers.
        timeout_s: seconds for the connection, for each part of the answer, and for the answer in all.
        most: bytes of a successful answer that are read, and at most 2000 of an error's text; 0 reads the status only.

    Returns:
        The answer. A redirect is an answer too: it is not followed.

    Raises:
        TryAgain: the server is busy (408, 409, 425, 429), failed (5xx), stayed silent or broke the connection.
        UnusableAddress: the address cannot be used.
    """
    import httpx

    try:
        with _silenced():
            response, answer = _exchange(url, data, headers or {}, timeout_s, most)
    except httpx.TimeoutException:
        raise TryAgain(f"no answer within {timeout_s:g} s") from None
    except httpx.RequestError as error:
        raise TryAgain(f"the connection failed ({type(error).__name__})", cause=_beneath(error)) from None
    except (httpx.InvalidURL, ValueError, OSError) as error:  # a name that no address can have; a missing SSL_CERT_FILE
        raise UnusableAddress(type(error).__name__) from None
    if answer.status in _BUSY or answer.status >= 500:
        asked = response.headers.get("Retry-After", "")
        raise TryAgain(
            f"it answered {_named(answer.status)}", float(asked) if asked.isascii() and asked.isdigit() else 0.0
        )
    return answer


def in_tries(once: Callable[[], Answer], tries: int, backoff_s: float) -> Answer:
    """Send a request until there is an answer.

    Args:
        once: sends it; raises `TryAgain` when another try may succeed.
        tries: how often it is sent at most.
        backoff_s: wait before the second try; doubled each time, at most `LONGEST_WAIT_S`; the server may lengthen it.

    Returns:
        The first answer.

    Raises:
        TryAgain: the last try failed as well; the problem says how many there were.
    """
    problem = TryAgain("no try was made")
    for attempt in range(tries):
        try:
            return once()
        except TryAgain as error:
            problem = error
        if attempt + 1 < tries:
            time.sleep(min(max(backoff_s * 2**attempt, problem.after_s), LONGEST_WAIT_S))
    raise TryAgain(f"{problem.problem}, {tries} times in a row", problem.after_s, problem.cause)


def _exchange(
    url: str, data: bytes, headers: Mapping[str, str], timeout_s: float, most: int
) -> tuple[httpx.Response, Answer]:
    import httpx

    deadline = time.monotonic() + timeout_s
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
    # A proxy of the environment is no way to this machine itself.
    trusted = urlsplit(url).hostname not in _LOOPBACK
    with (
        httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=trusted, verify=_certificates()) as client,
        client.stream("POST", url, content=data, headers=headers) as response,
    ):
        if response.is_success:
            return response, Answer(response.status_code, *_body(response, most, deadline))
        body = b""
        with contextlib.suppress(httpx.RequestError):  # the status says enough without the text
            body, _ = _body(response, min(most, _LONGEST_COMPLAINT), deadline)
        return response, Answer(response.status_code, body, False)


def _body(response: httpx.Response, most: int, deadline: float) -> tuple[bytes, bool]:
    """Return the first bytes of a body, and whether there are more than `most`."""
    import httpx

    body = bytearray()
    for chunk in response.iter_bytes() if most else ():
        body += chunk
        if time.monotonic() > deadline:  # a trickle of bytes must not outlive the deadline
            raise httpx.ReadTimeout("the answer took too long")
        if len(body) > most:
            return bytes(body[:most]), True
    return bytes(body), False


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return the authorities of the library and those of the system, where a company adds its own."""
    import httpx

    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def _beneath(error: BaseException) -> OSError | None:
    """Return the system's error that underlies the library's; parts of the library chain it as context only."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return found


def _named(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f"{status} {http.HTTPStatus(status).phrase}"
    return str(status)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Drop what this thread tells the talkative loggers while the block lasts."""
    thread = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    for logger in loggers:
        logger.addFilter(others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(others)
