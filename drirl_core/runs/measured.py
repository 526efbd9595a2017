"""Artifacts that a measurement makes outside the pipeline: an earlier, equal measurement is reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drirl_core.config import resolved
from drirl_core.project import Project
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import Artifact, Workspace, fingerprint


@dataclass(frozen=True)
class Measurement:
    """What a measurement is of.

    Args:
        asset: name of the artifact.
        version: of the algorithm.
        settings: what decides the result beside the inputs, JSON data.
        inputs: asset or source and its version, of what decides the result.
        subject: what is measured, as the user calls it.
        known: what progress says of a result that is there, such as `xstest: evaluated before`.
    """

    asset: str
    version: str
    settings: Sequence[Any]
    inputs: Mapping[str, str]
    subject: str
    known: str

    @property
    def code(self) -> str:
        """Version of algorithm and settings."""
        said = json.dumps(self.settings, sort_keys=True).encode()
        return f"{self.version}-{hashlib.sha256(said).hexdigest()[:12]}"


def measured_once(
    what: Measurement, project: Project, reporter: Reporter, measure: Callable[[Workspace], dict[str, Any]]
) -> Artifact:
    """Return the artifact of a measurement, from the store if an equal one is there.

    Args:
        what: the measurement.
        project: its configuration and store.
        reporter: gets progress.
        measure: fills the workspace and returns the metadata; runs only where there is no result yet.
    """
    store, key = project.store, fingerprint(what.asset, what.code, what.inputs)
    with store.building(what.asset, key, reporter.log) as workspace:
        found = store.find(what.asset, key)
        if found:
            store.touch(what.asset, key, found.version)
            reporter.log(f"{what.known} with the same model and settings, version {found.version}")
            return found
        store.require_writable()
        details = {
            "metadata": measure(workspace),
            "inputs": what.inputs,
            "code_version": what.code,
            "config": resolved(project.config),
            "subject": what.subject,
        }
        return store.publish(what.asset, key, workspace, details=details)
