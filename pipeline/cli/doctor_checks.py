"""The checks of `drirl doctor`: each looks at one thing, says what it found, and how to fix it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import socket
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import drirl_core
from drirl_core.config import Config
from drirl_core.errors import ConfigError, DrirlError
from drirl_core.graph.layout import INBOX_SOURCE
from drirl_core.models.loading import cpu_multiplies_bfloat16
from drirl_core.project import Project
from drirl_core.store.disk import existing
from drirl_core.store.remote import is_uri
from pipeline.executors.choice import require_extra
from pipeline.executors.gpu_share import ask_driver
from pipeline.instance.home import HOME_VARIABLE, POSTGRES_VARIABLE, chosen_home

Status = Literal["ok", "warn", "fail"]
MIN_PYTHON = (3, 11)
DISK_WARN_GB, DISK_FAIL_GB = 5.0, 1.0
MEMORY_WARN_GB, MEMORY_FAIL_GB = 6.0, 2.5


@dataclass(frozen=True)
class Check:
    """What one check found.

    Args:
        name: what was checked.
        status: `ok`; `warn`: a run works, but something is missing; `fail`: a run cannot work.
        detail: what was found, with numbers.
        fix: what to do about it; empty when nothing is wrong.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def check_python() -> Check:
    """Compare the Python version with the oldest one that is supported."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        return Check(
            "python",
            "fail",
            found,
            f"install Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer and recreate the environment",
        )
    return Check("python", "ok", f"{found} in {sys.prefix}")


def check_packages() -> Iterator[Check]:
    """Compare every declared dependency with what is installed; one result for all that match."""
    from packaging.requirements import InvalidRequirement, Requirement

    fitting: list[str] = []
    for text in declared_requirements():
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(
                f"package {wanted.name}",
                "fail",
                f"not installed, {wanted.specifier or 'any version'} is needed",
                f'pip install "{text}"',
            )
            continue
        if wanted.specifier.contains(version, prereleases=True):
            fitting.append(f"{wanted.name} {version}")
        else:
            yield Check(
                f"package {wanted.name}",
                "fail",
                f"{version} is installed, {wanted.specifier} is needed",
                f'pip install "{text}"',
            )
    if not fitting:
        yield Check(
            "packages", "warn", "the project's requirements were not found", "install the project: pip install -e ."
        )
    else:
        yield Check("packages", "ok", f"{len(fitting)} match: {', '.join(fitting)}")


def declared_requirements() -> list[str]:
    """Return the project's dependencies, from pyproject.toml in a checkout, else from the installed package."""
    pyproject = (
        Path(drirl_core.__file__ or "").parents[1] / "pyproject.toml" if drirl_core.__file__ else Path("pyproject.toml")
    )
    if pyproject.is_file():
        return list(tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {}).get("dependencies", []))
    for name in importlib.metadata.packages_distributions().get("drirl_core", []):
        return [line for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
    return []


def check_sources(project: Project) -> Iterator[Check]:
    """Check every file that the configuration names: prompts, demonstrations, suites."""
    for name, path in project.graph.sources.items():
        yield _drop_folder(path) if name == INBOX_SOURCE else _file(name, path)


def _drop_folder(accepted: Path) -> Check:
    folder = accepted.parent
    if not folder.is_dir():
        return Check(
            "drop folder", "fail", f"{folder} is not a directory", f"mkdir {folder}, or correct operations.inbox.folder"
        )
    if not os.access(folder, os.W_OK):
        return Check("drop folder", "fail", f"{folder} cannot be written", f"chmod u+w {folder}")
    count = sum(1 for _ in accepted.iterdir()) if accepted.is_dir() else 0
    return Check("drop folder", "ok", f"{folder} ({count} files accepted)")


def _file(name: str, path: Path) -> Check:
    if not path.exists():
        return Check(
            name,
            "fail",
            f"{path} does not exist",
            "fix the path in the configuration; it is relative to the directory of that file",
        )
    if not os.access(path, os.R_OK):
        return Check(name, "fail", f"{path} cannot be read", f"chmod +r {path}")
    if path.is_dir():
        return Check(name, "ok", f"{path} ({sum(1 for _ in path.iterdir())} files)")
    size = path.stat().st_size
    if not size:
        return Check(name, "fail", f"{path} is empty", "add rows to it, or name another file in the configuration")
    return Check(name, "ok", f"{path} ({size / 1e3:,.0f} kB)")


def check_disk(config: Config) -> Check:
    """Check free space and write permission where the artifacts, or this machine's copies of them, are stored."""
    setting = "mirror" if is_uri(config.root) else "root"
    root = Path(getattr(config, setting)).absolute()
    there = existing(root)
    free = shutil.disk_usage(there).free / 1e9
    detail = f"{free:,.1f} GB free for {root}"
    if not os.access(there, os.W_OK):
        return Check(
            "disk",
            "fail",
            f"{there} cannot be written",
            f"correct its permissions, or set `{setting}` to another directory",
        )
    if free < DISK_FAIL_GB:
        return Check(
            "disk",
            "fail",
            detail,
            f"free some space, or set `{setting}` to another disk; the demo needs at least {DISK_FAIL_GB:.0f} GB",
        )
    if free < DISK_WARN_GB:
        return Check(
            "disk",
            "warn",
            detail,
            f"with less than {DISK_WARN_GB:.0f} GB a few runs fill the disk; `drirl gc` shows what can be deleted",
        )
    return Check("disk", "ok", detail)


def check_object_store(project: Project) -> Check:
    """Write a small object to the place where the artifacts are stored."""
    try:
        project.store.require_writable()
    except DrirlError as error:
        return Check("object store", "fail", str(error), "")
    return Check("object store", "ok", f"{project.config.root} can be written")


def check_memory() -> Check:
    """Check how much memory this process may use: the machine's, or the container's limit when that is lower."""
    total = memory_gb()
    if total is None:
        return Check("memory", "warn", "cannot be read on this system", f"the demo needs about {MEMORY_FAIL_GB} GB")
    detail = f"{total:.1f} GB"
    if total < MEMORY_FAIL_GB:
        return Check("memory", "fail", detail, f"the demo needs at least {MEMORY_FAIL_GB} GB")
    if total < MEMORY_WARN_GB:
        return Check(
            "memory",
            "warn",
            detail,
            f"with less than {MEMORY_WARN_GB} GB, lower completions.batch_size and benchmarks.batch_size to 16",
        )
    return Check("memory", "ok", detail)


def memory_gb() -> float | None:
    """Return the memory in GB (10^9 bytes) that this process may use, or None when it is unknown."""
    found: list[int] = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return min(found) / 1e9 if found else None


def check_cpu() -> Check:
    """Report the number of cores, and whether the CPU has instructions that make bfloat16 fast."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fast = "multiplies bfloat16 natively, which models.dtype=auto uses"
    how = fast if cpu_multiplies_bfloat16() else "no bfloat16 instructions, so models.dtype=auto is float32"
    return Check("cpu", "ok", f"{cores} cores; {how}")


def check_gpu(config: Config) -> Check:
    """Look for an NVIDIA GPU; the check fails only when the configuration asks for one."""
    wanted = config.models.device == "cuda"
    names = ask_driver("name,memory.total")
    if names:
        return Check("gpu", "ok", "; ".join(names))
    if wanted:
        return Check(
            "gpu",
            "fail",
            "none found, but models.device is 'cuda'",
            "install the driver, or set models.device=auto",
        )
    return Check("gpu", "ok", "none; the run uses the CPU")


def check_executor(config: Config) -> Check:
    """Look for the optional packages of the executor that the configuration chooses."""
    name = config.execution.executor
    try:
        require_extra(config)
    except ConfigError as error:
        return Check("executor", "fail", str(error))
    return Check("executor", "ok", name)


def check_dagster_home() -> Check:
    """Prepare the directory where Dagster keeps its history and open it, as a run would."""
    try:
        home = chosen_home()
        if os.access(home, os.W_OK) and not os.environ.get(POSTGRES_VARIABLE):  # a database has its own check
            from pipeline.running.run import open_instance  # loads Dagster, which takes seconds

            with open_instance():
                pass
    except ConfigError as error:
        return Check(HOME_VARIABLE, "fail", str(error))
    if not os.access(home, os.W_OK):
        return Check(
            HOME_VARIABLE, "fail", f"{home} cannot be written", f"chmod u+w {home}, or choose another directory"
        )
    return Check(
        HOME_VARIABLE,
        "ok",
        f"{home}{'' if os.environ.get(HOME_VARIABLE) else ' (not set, so the project uses its own)'}",
    )


def check_port(port: int = 3000) -> Check:
    """Try to take the port of the Dagster page."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Check(
                f"port {port}",
                "warn",
                f"taken ({error.strerror})",
                f"stop the process that uses it, or choose another port: drirl dev --port {port + 1}",
            )
    return Check(f"port {port}", "ok", "free")
