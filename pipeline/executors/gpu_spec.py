"""What a step asks of the machine that runs it, said once and translated for Dagster's pools, for Ray and for Kubernetes."""

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
    """What a step asks for; the empty one is that of a light step.

    Args:
        heavy: whether it trains or samples, and so takes its turn with others that do.
        count: GPUs.
        cpus: CPU cores; 0 leaves it open.
        memory_gib: memory in GiB; 0 leaves it open.
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
    """Return what a step asks for under a configuration.

    Args:
        heavy: whether it trains or samples.
        config: `execution.gpu`, and `models.device`, which may rule out the GPU.
    """
    if not heavy:
        return GpuSpec()
    asked = config.execution.gpu
    count = 0 if config.models.device == "cpu" else asked.count
    return GpuSpec(True, count, asked.cpus, asked.memory_gib, asked.node_selector, asked.tolerations)


def pool(spec: GpuSpec) -> str | None:
    """Return the Dagster pool in which steps take turns, on whatever executor."""
    return GPU_POOL if spec.heavy else None


def op_tags(spec: GpuSpec, executor: str) -> dict[str, Any]:
    """Return the tags by which the executor learns what a step asks for; local executors need none."""
    translate = {"ray": ray_tags, "kubernetes": kubernetes_tags}.get(executor)
    return translate(spec) if translate else {}


def ray_tags(spec: GpuSpec) -> dict[str, Any]:
    """Translate for dagster-ray.

    A step reserves one core at least: by default a Ray job reserves none, and all steps of a run would start at once.
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
