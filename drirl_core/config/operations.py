"""Settings of operations around the runs: the drop folder and alerts. The string under a field is its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from drirl_core.config.data import SourceConfig
from drirl_core.config.reading import require

INBOX = "inbox"
"""Name of the source that the drop folder feeds: the asset `source_inbox`."""
ACCEPTED, REJECTED = "accepted", "rejected"
"""Folders inside the drop folder."""


@dataclass(frozen=True)
class InboxConfig:
    """A folder into which people drop files of prompts."""

    folder: str | None = None
    """Directory that is watched; without one there is no drop folder."""
    adapter: str = "columns"
    """Layout of the files: `columns` (use the column map) or one of the public sources in
    drirl_core/prompts/sources.yaml."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column map for the adapter `columns`: ours -> theirs, for prompt, category, demonstration, licence, id."""
    category: str | None = None
    """Category of every row, when the files hold only one."""
    licence: str = "unknown"
    """Licence of the rows; a column `licence` is read when it is unknown."""
    max_bytes: int = 50_000_000
    """Larger files are rejected unread, gzipped ones by the size they unpack to."""
    settle_s: float = 2.0
    """A file younger than this, or changing while it is looked at, is still being written and is left alone."""

    def __post_init__(self) -> None:
        require(
            self.folder != "", "operations.inbox.folder is ''; name a directory, or leave it out to have no drop folder"
        )
        require(self.max_bytes >= 1, f"operations.inbox.max_bytes is {self.max_bytes}; at least 1")
        require(self.settle_s >= 0, f"operations.inbox.settle_s is {self.settle_s}; 0 or more")

    @property
    def source(self) -> SourceConfig | None:
        """The accepted files as a source of prompts, or None without a drop folder."""
        if self.folder is None:
            return None
        return SourceConfig(
            INBOX, str(Path(self.folder) / ACCEPTED), self.adapter, self.columns, self.category, self.licence
        )


@dataclass(frozen=True)
class AlertHookConfig:
    """One way to pass on an alert."""

    kind: Literal["log", "file", "webhook"] = "log"
    """`log` writes to the sensor's log, `file` appends a JSON line to `path`, `webhook` posts JSON to a URL."""
    path: str | None = None
    """File of kind `file`."""
    url_env: str | None = None
    """Name of the environment variable that holds the URL of kind `webhook`; the URL itself is never written to a file
    or a log."""

    def __post_init__(self) -> None:
        require(self.kind != "file" or bool(self.path), "operations.alerts.hooks: a hook of kind 'file' needs a `path`")
        # The value is not shown: it may be the URL with its token, pasted by mistake.
        named = self.url_env is not None and self.url_env.isidentifier()
        require(
            self.kind != "webhook" or named,
            "operations.alerts.hooks: a hook of kind 'webhook' needs in `url_env` the NAME of an environment variable, "
            "such as ALERT_URL; put the URL into that variable",
        )


@dataclass(frozen=True)
class AlertsConfig:
    """Who is notified of a failure."""

    hooks: tuple[AlertHookConfig, ...] = (AlertHookConfig(),)
    """Each alert is sent to all of them; an empty list sends none."""


@dataclass(frozen=True)
class FreshnessConfig:
    """How long ago a source may have been looked at, and the promoted policy chosen, before the graph warns."""

    source_hours: float = 50.0
    """Hours since a source was last observed. Sources are observed at 02:00 and asked about at 06:00, so 50 lets one
    night pass without a look, and not two."""
    promoted_warn_days: float = 60.0
    """Days since the promoted policy last moved, after which the graph warns."""
    promoted_fail_days: float = 90.0
    """Days after which it fails: what people ask a model for changes within a quarter, and a policy that is older was
    trained and judged on the prompts of another time."""

    def __post_init__(self) -> None:
        require(self.source_hours > 0, f"operations.freshness.source_hours is {self.source_hours}; more than 0")
        require(
            0.001 <= self.promoted_warn_days < self.promoted_fail_days,  # Dagster refuses windows under a minute
            f"operations.freshness.promoted_warn_days is {self.promoted_warn_days} and promoted_fail_days is "
            f"{self.promoted_fail_days}; the first must be at least 0.001 and less than the second",
        )


@dataclass(frozen=True)
class OperationsConfig:
    """Operations around the runs; they decide no result, except by the files of the drop folder."""

    inbox: InboxConfig = field(default_factory=InboxConfig)
    """Drop folder."""
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    """Alerts."""
    freshness: FreshnessConfig = field(default_factory=FreshnessConfig)
    """Freshness of the sources and of the promoted policy."""
    source_url: str | None = None
    """Web address of the directory that holds drirl_core, at a branch or commit, such as
    https://github.com/me/drirl/blob/main: the graph links assets to their code there. Without it they link to files of
    the machine that serves the graph."""

    def __post_init__(self) -> None:
        require(
            self.source_url is None or self.source_url.startswith(("https://", "http://")),
            f"operations.source_url is {self.source_url!r}; give an address that starts with https://, or leave it out",
        )
