"""Tell people that something went wrong: in the log, in a file, through a webhook, or by a function of your own.

What raises an alert needs two lines::

    alert = Alert("gate_failed", "the policy was not promoted", "over-refusal is 0.21, at most 0.15", {"suite": "xstest"})
    send(alert, config.operations.alerts, context.log)
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drirl_core import web
from drirl_core.config import AlertHookConfig, AlertsConfig
from drirl_core.redaction import redact, redact_text

Kind = Literal["run_failed", "file_rejected", "benchmark_regression", "gate_failed"]

TIMEOUT_S = 5.0
TRIES = 3
BACKOFF_S = 0.5
_LONGEST_TEXT = 3000


@dataclass(frozen=True)
class Alert:
    """One thing that went wrong.

    Args:
        kind: what it is about.
        title: one line that can stand alone.
        text: what was found and what to do; several lines are fine.
        facts: names and numbers for machines, JSON data.
    """

    kind: Kind
    title: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)


Hook = Callable[[Alert], None]
"""A way to pass an alert on; it raises when it cannot, `AlertError` to say why."""


class AlertError(Exception):
    """Say why an alert could not be delivered, in words that hold no secret."""


def send(alert: Alert, config: AlertsConfig, log: logging.Logger, hooks: Sequence[Hook] = ()) -> None:
    """Give an alert to every hook; see `send_all`."""
    send_all([alert], config, log, hooks)


def send_all(alerts: Sequence[Alert], config: AlertsConfig, log: logging.Logger, hooks: Sequence[Hook] = ()) -> None:
    """Give alerts to every hook of the configuration, and to functions of your own.

    What looks like a secret is blanked out first. A hook that fails is logged with its reason and gets none of the
    remaining alerts of this call, so that one that hangs cannot hold up a sensor; the other hooks are asked all the same.

    Args:
        alerts: the alerts, in order.
        config: names the hooks.
        log: where the hook `log` writes, and where failures of hooks are told.
        hooks: further functions that take an alert.
    """
    alerts = [
        Alert(a.kind, redact_text(a.title), redact_text(a.text)[:_LONGEST_TEXT], redact(dict(a.facts))) for a in alerts
    ]
    configured = [(_named(hook), _hook(hook, log)) for hook in config.hooks]
    own = [(getattr(hook, "__name__", type(hook).__name__), hook) for hook in hooks]
    for name, hook in (*configured, *own):
        for number, alert in enumerate(alerts):
            try:
                hook(alert)
            except Exception as error:
                # The text of a foreign error may hold the address that was called, and with it a token.
                why = str(error) if isinstance(error, AlertError) else type(error).__name__
                log.error(
                    f"alert hook {name} failed: {why}. Not delivered by it: {'; '.join(a.title for a in alerts[number:])}"
                )
                break


def _named(hook: AlertHookConfig) -> str:
    return f"{hook.kind} {hook.path or hook.url_env or ''}".strip()


def _hook(hook: AlertHookConfig, log: logging.Logger) -> Hook:
    if hook.kind == "file":
        return lambda alert: _append(Path(hook.path or ""), alert)
    if hook.kind == "webhook":
        return lambda alert: _post(hook.url_env or "", alert)
    return lambda alert: log.warning(f"{alert.title}\n{alert.text}")


def _data(alert: Alert) -> bytes:
    text = f"{alert.title}\n{alert.text}"  # the field that chat services show
    data = {
        "kind": alert.kind,
        "title": alert.title,
        "text": text,
        "facts": alert.facts,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return json.dumps(data, default=str).encode()


def _append(path: Path, alert: Alert) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:  # one write, so that lines of two processes do not mix
            file.write(_data(alert) + b"\n")
    except OSError as error:
        raise AlertError(
            f"{path} cannot be written ({error.strerror or error}); mend its permissions or operations.alerts"
        ) from error


def _post(url_env: str, alert: Alert) -> None:
    """Post an alert to the URL that an environment variable holds, a few times if the server is down or busy.

    Raises:
        AlertError: it was not delivered; the text never holds the URL.
    """
    url = os.environ.get(url_env, "").strip()
    if not url:
        raise AlertError(f"the environment variable {url_env} is not set; put the URL of the webhook into it")
    if not url.startswith(("http://", "https://")):
        raise AlertError(f"the environment variable {url_env} holds no URL that starts with https:// or http://")
    try:
        answer = web.in_tries(lambda: web.post(url, _data(alert), timeout_s=TIMEOUT_S), TRIES, BACKOFF_S)
    except web.TryAgain as error:
        raise AlertError(error.problem) from None
    except web.UnusableAddress as error:
        raise AlertError(f"the URL in {url_env} cannot be used ({error}); set the variable again") from None
    if 300 <= answer.status < 400:
        raise AlertError(f"it redirects ({answer.status}), which is not followed; put the final URL into {url_env}")
    if answer.status >= 400:
        raise AlertError(f"it answered {answer.status}; put a valid URL into {url_env}")
