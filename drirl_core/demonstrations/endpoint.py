"""One chat message to an OpenAI-compatible endpoint and back, over the standard library.

This is the one module that reads an environment variable: the key, by the name the configuration gives. The key is read
for each request, is sent to the configured host only (redirects are not followed) and is struck out of every text that
came from the server before it enters an error.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from drirl_core.errors import ConfigError, ModelError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_LARGEST_REPLY = 10_000_000
_LONGEST_WAIT_S = 60.0
_ADVICE = {
    401: "the key is missing or wrong; put a valid one into the environment variable that `api_key_env` names",
    403: "the key may not use this model; ask its owner for access or choose another `model`",
    404: "no such path or model there; `url` should end where /chat/completions begins (often /v1), and `model` be a name it serves",
    405: "the path takes no POST; `url` should end where /chat/completions begins (often /v1)",
}


class EndpointError(ModelError):
    """Say that an endpoint cannot be used at all: going on with other prompts would fail the same way."""


class PromptRefused(ModelError):
    """Say that the endpoint turned down this one message (HTTP 400, 413, 422, or a reply cut short)."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: urllib would send the key along to the other host."""


@dataclass(frozen=True)
class ChatEndpoint:
    """An OpenAI-compatible chat endpoint.

    Args:
        url: base URL such as http://127.0.0.1:8000/v1.
        model: name of the model there.
        api_key_env: name of the environment variable with the key; empty for no key.
        timeout_s: seconds one request may take in all.
        tries: requests a message when the server is busy (429), fails (5xx), is silent or drops the connection.
        backoff_s: wait before the second try; doubled each time, at most a minute; `Retry-After` may lengthen it.
    """

    url: str
    model: str
    api_key_env: str = ""
    timeout_s: float = 120.0
    tries: int = 5
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("demonstrations.demonstrator.url must start with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "demonstrations.demonstrator.url may not carry a user, a password or a query; name the key's variable in api_key_env"
            )

    @property
    def target(self) -> str:
        """Full URL of the chat completions."""
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"

    def reply(self, message: str, *, temperature: float, max_new_tokens: int) -> str:
        """Send one user message and return the model's text.

        Args:
            message: the user message.
            temperature: sampling temperature.
            max_new_tokens: length limit of the reply.

        Returns:
            The text of the first choice; empty when the server gives none.

        Raises:
            EndpointError: the endpoint cannot be used (no connection, wrong key or path, not JSON, busy to the end).
            PromptRefused: this message was turned down, or its reply hit the length limit.
        """
        key = self._key()
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": message}],
            "temperature": temperature,
            "max_tokens": max_new_tokens,
        }
        return self._text(self._post(json.dumps(body).encode(), key), key, max_new_tokens)

    def _key(self) -> str:
        if not self.api_key_env:
            return ""
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise EndpointError(
                f"the environment variable {self.api_key_env} is not set; demonstrations.demonstrator.api_key_env says it holds the key"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise EndpointError(
                f"the environment variable {self.api_key_env} holds blanks, line breaks or odd characters, so it is no key; set it again"
            )
        return key

    def _post(self, body: bytes, key: str) -> bytes:
        problem = "no try was made"
        for attempt in range(self.tries):
            wait = min(self.backoff_s * 2**attempt, _LONGEST_WAIT_S)
            try:
                return self._once(body, key)
            except urllib.error.HTTPError as error:
                problem, asked = self._judge_status(error, key), error.headers.get("Retry-After", "")
                wait = min(max(wait, float(asked)), _LONGEST_WAIT_S) if asked.isdigit() else wait
            except urllib.error.URLError as error:
                problem = self._judge_connection(error.reason)
            except (OSError, http.client.HTTPException) as error:
                problem = self._judge_connection(error)
            if attempt + 1 < self.tries:
                time.sleep(wait)
        raise EndpointError(
            f"{self.target}: {problem}, {self.tries} times in a row; what it wrote before is kept, so run again when it is well"
        )

    def _once(self, body: bytes, key: str) -> bytes:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(self.target, data=body, headers=headers, method="POST")  # noqa: S310 - scheme checked above
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if urllib.parse.urlsplit(self.target).hostname in _LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + self.timeout_s
        with urllib.request.build_opener(*handlers).open(request, timeout=self.timeout_s) as response:
            chunks, size = [], 0
            while chunk := response.read1(65536):  # a trickle of bytes must not outlive the deadline
                chunks.append(chunk)
                size += len(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError
                if size > _LARGEST_REPLY:
                    raise EndpointError(
                        f"{self.target}: the reply is longer than {_LARGEST_REPLY} bytes; this is no chat endpoint"
                    )
            return b"".join(chunks)

    def _judge_status(self, error: urllib.error.HTTPError, key: str) -> str:
        """Return the words for an error worth another try; raise for the others."""
        status = error.code
        if status in (408, 409, 425, 429) or status >= 500:
            return f"it answered {status} {http.client.responses.get(status, '')}".strip()
        if 300 <= status < 400:
            raise EndpointError(
                f"{self.target}: it redirects ({status}); give its final address as demonstrations.demonstrator.url"
            ) from None
        try:
            said = _shown(error.read(2000), key)
        except (OSError, http.client.HTTPException):
            said = ""
        said = f" (it says: {said})" if said else ""
        if status in (400, 413, 422):
            raise PromptRefused(f"the endpoint answered {status}{said}") from None
        raise EndpointError(f"{self.target}: {status}: {_ADVICE.get(status, 'the request is refused')}{said}") from None

    def _judge_connection(self, error: object) -> str:
        """Return the words for a connection error worth another try; raise for the others."""
        if isinstance(error, TimeoutError):
            return f"no answer within {self.timeout_s:g} s"
        if isinstance(error, ConnectionRefusedError):
            raise EndpointError(
                f"{self.target}: connection refused: nothing listens there; start the server or mend demonstrations.demonstrator.url"
            ) from None
        if isinstance(error, socket.gaierror):
            raise EndpointError(
                f"{self.target}: the host's address is not known ({error.strerror}); mend demonstrations.demonstrator.url or the network"
            ) from None
        return f"the connection broke ({type(error).__name__})"

    def _text(self, raw: bytes, key: str, max_new_tokens: int) -> str:
        try:
            choice = json.loads(raw)["choices"][0]
            content, reason = choice["message"]["content"], choice.get("finish_reason")
            if isinstance(content, list):
                content = "".join(part.get("text", "") for part in content)
            if content is not None and not isinstance(content, str):
                raise TypeError("content is no text")
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise EndpointError(
                f"{self.target}: the reply is not the JSON of a chat completion but {_shown(raw[:2000], key) or 'empty'}; "
                "is this an OpenAI-compatible server?"
            ) from None
        if reason == "length":
            raise PromptRefused(
                f"the reply hit the length limit of {max_new_tokens} tokens; raise demonstrations.demonstrator.max_new_tokens"
            )
        return content or ""


def _shown(raw: bytes, key: str) -> str:
    """Return the beginning of a server's text on one line, the key struck out before anything is cut."""
    text = " ".join(raw.decode("utf-8", "replace").split())
    text = text.replace(key, "[key]") if key else text
    return text if len(text) <= 200 else text[:197] + "..."
