"""Old address of the run launcher, which homes of version 0.1 name; use `pipeline.running.launcher`."""

from pipeline.running.launcher import HealthCheckedLauncher

__all__ = ["HealthCheckedLauncher"]
