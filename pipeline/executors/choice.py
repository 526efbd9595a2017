"""Where steps run: `execution.executor` chooses, and the packages of other executors are not imported."""

import importlib.util
from typing import TYPE_CHECKING, Any

from drirl_core.config import Config
from drirl_core.errors import ConfigError
from pipeline.instance.settings import CONFIG_VARIABLE, config_for_nodes

if TYPE_CHECKING:
    import dagster as dg

_EXTRAS = {"ray": ("dagster_ray", "ray"), "kubernetes": ("dagster_k8s", "kubernetes")}
"""Modules of the optional packages of each executor that needs some; the extra has the name of the executor."""

_ELSEWHERE = {
    "ray": "start Dagster with `drirl dev FILE` and materialize there",
    "kubernetes": "materialize on the page of the Dagster that runs in the cluster",
}
_LAUNCHER = "run_launcher: {module: dagster_k8s, class: K8sRunLauncher, config: {...}}"


def require_extra(config: Config) -> None:
    """Make sure that the packages of the chosen executor are installed, without importing them.

    Raises:
        ConfigError: they are not; the message gives the command that installs them.
    """
    name = config.execution.executor
    missing = [module for module in _EXTRAS.get(name, ()) if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"execution.executor is {name!r}, which needs {' and '.join(missing)}; install with: "
            f'pip install -c constraints.txt "drirl[{name}]" (in a checkout: -e ".[{name}]")'
        )


def require_local(config: Config) -> None:
    """Refuse to run a configuration in this process when its steps belong on a cluster.

    Raises:
        ConfigError: the executor runs steps elsewhere; the message says what to do.
    """
    name = config.execution.executor
    if name in _ELSEWHERE:
        raise ConfigError(
            f"execution.executor is {name!r}, and `drirl run` runs every step on this machine; "
            f"{_ELSEWHERE[name]}, or run here with "
            "--set execution.executor=in_process"
        )


def executor_of(config: Config) -> "dg.ExecutorDefinition":
    """Build the executor that a configuration chooses.

    Raises:
        ConfigError: its packages are not installed.
    """
    import dagster as dg

    require_extra(config)
    match config.execution.executor:
        case "in_process":
            return dg.in_process_executor
        case "multiprocess":
            # forkserver starts a step in half the time of spawn. torch is not preloaded: CUDA does not survive a fork.
            return dg.multiprocess_executor.configured(
                {"start_method": {"forkserver": {"preload_modules": ["dagster"]}}}
            )
        case "ray":
            return _ray(config)
        case "kubernetes":
            return _kubernetes(config)


def _ray(config: Config) -> "dg.ExecutorDefinition":
    from dagster_ray import ray_executor

    # No num_cpus, num_gpus, memory or resources here: they would override those of the steps.
    variables = {CONFIG_VARIABLE: config_for_nodes()}
    return ray_executor.configured(
        {"ray": {"address": config.execution.ray.address, "runtime_env": {"env_vars": variables}}}
    )


def _kubernetes(config: Config) -> "dg.ExecutorDefinition":
    import dagster as dg
    from dagster_k8s import K8sRunLauncher, k8s_job_executor

    def create(init: dg.InitExecutorContext) -> dg.Executor:
        if not isinstance(init.instance.run_launcher, K8sRunLauncher):  # dagster-k8s needs its settings
            raise ConfigError(
                "execution.executor is 'kubernetes', but this Dagster instance launches runs with "
                f"{type(init.instance.run_launcher).__name__}; run Dagster in the cluster, with `{_LAUNCHER}` in "
                "its dagster.yaml"
            )
        return k8s_job_executor.executor_creation_fn(init)

    needs = dg.multiple_process_executor_requirements()
    checked = dg.ExecutorDefinition("k8s", k8s_job_executor.config_schema, needs, create)
    return checked.configured(pod_settings(config))


def pod_settings(config: Config) -> dict[str, Any]:
    """Translate `execution.kubernetes` for the executor of dagster-k8s: what every pod of a step has.

    Args:
        config: the configuration.
    """
    pods = config.execution.kubernetes
    settings: dict[str, Any] = {
        "job_image": pods.image,
        "job_namespace": pods.namespace,
        "service_account_name": pods.service_account,
        "env_vars": [f"{CONFIG_VARIABLE}={config_for_nodes()}"],
        "env_secrets": list(pods.env_secrets),
    }
    if pods.claim:
        settings["volumes"] = [{"name": "artifacts", "persistent_volume_claim": {"claim_name": pods.claim}}]
        settings["volume_mounts"] = [{"name": "artifacts", "mount_path": pods.mount}]
    return {name: value for name, value in settings.items() if value}
