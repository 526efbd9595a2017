"""Look at models, adapters and lengths before a run starts, in a process of its own: this one never holds torch."""

import json
import os
import subprocess
import sys
from collections.abc import Collection

from drirl_core.config import Config, resolved
from drirl_core.errors import ModelError
from drirl_core.graph.build import FIRST_STAGE
from drirl_core.models.packages import package_problems
from drirl_core.models.references import resolve
from drirl_core.policy.options import options_in, tracker_problems
from drirl_core.preflight import OPTIONS, POLICY_STAGES, refuse
from drirl_core.project import Project
from pipeline.instance.settings import ROOT


def look_before(project: Project, names: Collection[str]) -> None:
    """Refuse a run that would fail later, when it is about to load a policy.

    A run that begins with the prompt pool is looked at by that stage itself, in its worker.

    Args:
        project: the configuration and its graph.
        names: the assets that will run.

    Raises:
        ConfigError: there are problems; the message names all of them.
        ModelError: the models cannot be looked at.
    """
    stages = {project.graph.nodes[name].stage for name in names}
    if FIRST_STAGE in stages or not stages & POLICY_STAGES:
        return
    refuse(_seen(project.config) if _is_here(project.config) else needs_problems(project.config))


def needs_problems(config: Config) -> list[str]:
    """Say which options of TRL and which optional packages cannot be used; a process is started for options alone.

    Args:
        config: the complete configuration.

    Raises:
        ModelError: they cannot be looked at.
    """
    if options_in(config):
        return _seen(config, OPTIONS)
    return [*tracker_problems(config), *package_problems(config)]


def _seen(config: Config, *words: str) -> list[str]:
    """Return what `python -m drirl_core.preflight` finds."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(  # noqa: S603 - our own module, no outside input
        [sys.executable, "-m", "drirl_core.preflight", *words],
        input=json.dumps(resolved(config)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(
            f"the models of this run cannot be looked at ({last}); try `drirl doctor --debug` for the complete message"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _is_here(config: Config) -> bool:
    """Return whether the policy is on this machine; one that is not is looked at when it has been fetched."""
    try:
        resolve(config.models.policy, config.models, fetch=False)
    except ModelError:
        return False
    return True
