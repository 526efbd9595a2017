"""Old module path of the run launcher, which homes of version 0.1 use; use `pipeline.running.launcher`."""

from pipeline.running.launcher import HealthCheckedLauncher

__all__ = ["HealthCheckedLauncher"]
