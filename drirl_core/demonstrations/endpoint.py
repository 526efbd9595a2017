"""One chat message to an OpenAI-compatible endpoint and back.

This is the one module that reads an environment variable: the key, by the name the configuration gives. The key is read
for each request, is sent to the configured host only (redirects are not followed) and is removed from every text that
came from the server before it enters an error.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from drirl_core import web
from drirl_core.errors import ConfigError, ModelError

_LARGEST_REPLY = 10_000_000
_ADVICE = {
    401: "the key is missing or wrong; put a valid one into the environment variable that `api_key_env` names",
    403: "the key may not use this model; ask its owner for access or choose another `model`",
    404: "no such path or model there; `url` should end where /chat/completions begins (often /v1), "
    "and `model` be a name it serves",
    405: "the path takes no POST; `url` should end where /chat/completions begins (often /v1)",
}


class EndpointError(ModelError):
    """Say that an endpoint cannot be used at all: going on with other prompts would fail the same way."""


class PromptRefused(ModelError):
    """Say that the endpoint rejected this one message (HTTP 400, 413, 422, or a completion cut short)."""


def chat_target(url: str) -> str:
    """Return the full URL of the chat completions of a base URL."""
    base = url.rstrip("/")
    return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


@dataclass(frozen=True)
class ChatEndpoint:
    """An OpenAI-compatible chat endpoint.

    Args:
        url: base URL such as http://127.0.0.1:8000/v1.
        model: name of the model there.
        api_key_env: name of the environment variable with the key; empty for no key.
        timeout_s: seconds one request may take in all.
        tries: requests per message when the server is busy (429), fails (5xx), is silent or drops the connection.
        backoff_s: wait before the second try; doubled each time, at most a minute; `Retry-After` may lengthen it.
        section: dotted name of the settings that the endpoint comes from, for messages.
    """

    url: str
    model: str
    api_key_env: str = ""
    timeout_s: float = 120.0
    tries: int = 5
    backoff_s: float = 1.0
    section: str = "demonstrations.demonstrator"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{self.section}.url must start with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                f"{self.section}.url may not carry a user, a password or a query; "
                "name the key's variable in api_key_env"
            )

    @property
    def target(self) -> str:
        """Full URL of the chat completions."""
        return chat_target(self.url)

    def reply(self, message: str, *, temperature: float, max_new_tokens: int) -> str:
        """Send one user message and return the model's text.

        Args:
            message: the user message.
            temperature: sampling temperature.
            max_new_tokens: length limit of the completion.

        Returns:
            The text of the first choice; empty when the server gives none.

        Raises:
            EndpointError: the endpoint cannot be used (no connection, wrong key or path, not JSON, busy to the end).
            PromptRefused: this message was rejected, or its completion hit the length limit.
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
                f"the environment variable {self.api_key_env} is not set; "
                f"{self.section}.api_key_env says it holds the key"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise EndpointError(
                f"the environment variable {self.api_key_env} holds blanks, line breaks or odd characters, "
                "so it is no key; set it again"
            )
        return key

    def _post(self, body: bytes, key: str) -> bytes:
        try:
            answer = web.in_tries(lambda: self._once(body, key), self.tries, self.backoff_s)
        except web.TryAgain as error:
            raise EndpointError(
                f"{self.target}: {error.problem}; what it wrote before is kept, so run again when the endpoint works"
            ) from None
        except web.UnusableAddress as error:
            raise EndpointError(
                f"{self.target}: no request can be sent there ({error}); fix {self.section}.url"
            ) from None
        if answer.cut:
            raise EndpointError(
                f"{self.target}: the reply is longer than {_LARGEST_REPLY} bytes; this is no chat endpoint"
            )
        if not 200 <= answer.status < 300:
            raise self._refusal(answer, key)
        return answer.body

    def _once(self, body: bytes, key: str) -> web.Answer:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            return web.post(self.target, body, headers=headers, timeout_s=self.timeout_s, most=_LARGEST_REPLY)
        except web.TryAgain as error:
            self._require_reachable(error.cause)
            raise

    def _refusal(self, answer: web.Answer, key: str) -> ModelError:
        """Return the error for an answer that another try would get as well."""
        if 300 <= answer.status < 400:
            return EndpointError(
                f"{self.target}: it redirects ({answer.status}); give its final address as {self.section}.url"
            )
        said = _shown(answer.body, key)
        said = f" (it says: {said})" if said else ""
        if answer.status in (400, 413, 422):
            return PromptRefused(f"the endpoint answered {answer.status}{said}")
        advice = _ADVICE.get(answer.status, "the request is refused")
        return EndpointError(f"{self.target}: {answer.status}: {advice}{said}")

    def _require_reachable(self, cause: OSError | None) -> None:
        """Raise for a broken connection that another try would not get either."""
        if isinstance(cause, ConnectionRefusedError):
            raise EndpointError(
                f"{self.target}: connection refused: nothing listens there; start the server or fix {self.section}.url"
            ) from None
        if isinstance(cause, socket.gaierror):
            raise EndpointError(
                f"{self.target}: the host's address is not known ({cause.strerror}); fix "
                f"{self.section}.url or the network"
            ) from None

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
                f"{self.target}: the reply is not the JSON of a chat completion "
                f"but {_shown(raw[:2000], key) or 'empty'}; "
                "is this an OpenAI-compatible server?"
            ) from None
        if reason == "length":
            raise PromptRefused(
                f"the reply hit the length limit of {max_new_tokens} tokens; raise {self.section}.max_new_tokens"
            )
        return content or ""


def _shown(raw: bytes, key: str) -> str:
    """Return the beginning of a server's text on one line, the key removed before anything is cut."""
    text = " ".join(raw.decode("utf-8", "replace").split())
    text = text.replace(key, "[key]") if key else text
    return text if len(text) <= 200 else text[:197] + "..."
