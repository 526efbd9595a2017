"""Resources that a step requests, described once and translated for Dagster's pools, for Ray and for Kubernetes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drirl_core.config import Config
from drirl_core.config.execution import TOLERATION

GPU_POOL = "gpu"
RAY_TAG, KUBERNETES_TAG = "dagster-ray/config", "dagster-k8s/config"
_GIB = 2**30


@dataclass(frozen=True)
class GpuSpec:
    """Resources that a step requests; the default is a light step that requests none.

    Args:
        heavy: whether it trains or samples; heavy steps share the GPU pool.
        count: GPUs.
        cpus: CPU cores; 0 requests none.
        memory_gib: memory in GiB; 0 requests none.
        node_selector: labels of the Kubernetes nodes that may run it.
        tolerations: taints of Kubernetes nodes that it tolerates, `key[=value][:effect]`.
    """

    heavy: bool = False
    count: int = 0
    cpus: float = 0.0
    memory_gib: float = 0.0
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[str, ...] = ()


def gpu_spec(heavy: bool, config: Config) -> GpuSpec:
    """Return the resources that a step requests under a configuration.

    Args:
        heavy: whether it trains or samples.
        config: gives `execution.gpu`, and `models.device`, which may exclude the GPU.
    """
    if not heavy:
        return GpuSpec()
    asked = config.execution.gpu
    count = 0 if config.models.device == "cpu" else asked.count
    return GpuSpec(True, count, asked.cpus, asked.memory_gib, asked.node_selector, asked.tolerations)


def pool(spec: GpuSpec) -> str | None:
    """Return the Dagster pool that limits how many of these steps run at once, on every executor."""
    return GPU_POOL if spec.heavy else None


def op_tags(spec: GpuSpec, executor: str) -> dict[str, Any]:
    """Return the tags that tell the executor what a step requests; local executors need none."""
    translate = {"ray": ray_tags, "kubernetes": kubernetes_tags}.get(executor)
    return translate(spec) if translate else {}


def ray_tags(spec: GpuSpec) -> dict[str, Any]:
    """Translate for dagster-ray.

    A step reserves at least one core. By default a Ray job reserves none, so all steps of a run would start at once.
    """
    asked: dict[str, float] = {"num_cpus": spec.cpus or 1.0}
    if spec.count:
        asked["num_gpus"] = float(spec.count)
    if spec.memory_gib:
        asked["memory"] = int(spec.memory_gib * _GIB)
    return {RAY_TAG: asked}


def kubernetes_tags(spec: GpuSpec) -> dict[str, Any]:
    """Translate for dagster-k8s: GPUs as a limit, cores and memory as requests."""
    requests = {
        "cpu": f"{spec.cpus:g}" if spec.cpus else "",
        "memory": f"{spec.memory_gib:g}Gi" if spec.memory_gib else "",
    }
    resources = {
        "limits": {"nvidia.com/gpu": str(spec.count)} if spec.count else {},
        "requests": {name: amount for name, amount in requests.items() if amount},
    }
    container = {"resources": {name: amounts for name, amounts in resources.items() if amounts}}
    pod = {"node_selector": dict(spec.node_selector), "tolerations": [toleration(text) for text in spec.tolerations]}
    parts = {
        "container_config": container if container["resources"] else {},
        "pod_spec_config": {k: v for k, v in pod.items() if v},
    }
    filled = {name: part for name, part in parts.items() if part}
    return {KUBERNETES_TAG: filled} if filled else {}


def toleration(text: str) -> dict[str, str]:
    """Translate a toleration as `kubectl taint` writes it, such as `pool=gpu:NoSchedule`.

    Args:
        text: `key[=value][:effect]`; without a value every value is tolerated, without an effect every effect.
    """
    parts = {name: part for name, part in TOLERATION.fullmatch(text).groupdict().items() if part is not None}
    return {**parts, "operator": "Equal" if "value" in parts else "Exists"}
