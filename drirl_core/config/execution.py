"""Settings of execution: where steps run, and what heavy ones ask for.

None of them decides a result, except that `sampler` decides what is drawn at random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, get_args

from drirl_core.config.reading import added, require

TOLERATION = re.compile(
    r"(?P<key>[\w./-]+)(?:=(?P<value>[\w.-]*))?(?::(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)
"""How a toleration is written, as `kubectl taint` writes taints."""


@dataclass(frozen=True)
class GpuConfig:
    """What a heavy step (SFT, completions, rewards, hardness, policy, benchmarks) needs from its machine."""

    count: int = 1
    """GPUs; a step requests none when models.device is cpu. With more than one, SFT, DPO, GRPO and RLOO train in one
    process per GPU (`execution.processes`); other steps compute on one."""
    cpus: float = 0.0
    """CPU cores reserved for it on Ray and Kubernetes; 0 leaves it open (Ray then reserves 1)."""
    memory_gib: float = 0.0
    """Memory reserved for it on Ray and Kubernetes, in GiB; 0 leaves it open."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    """Labels of the Kubernetes nodes that may run it."""
    tolerations: tuple[str, ...] = ()
    """Taints of Kubernetes nodes that it tolerates, as kubectl writes them: `key`, `key:effect` or
    `key=value:effect`."""

    def __post_init__(self) -> None:
        for name in ("count", "cpus", "memory_gib"):
            require(getattr(self, name) >= 0, f"execution.gpu.{name} is {getattr(self, name)}; at least 0")
        for toleration in self.tolerations:
            require(
                TOLERATION.fullmatch(toleration) is not None,
                f"execution.gpu.tolerations: {toleration!r} is no toleration; write it as kubectl writes a taint, such "
                "as nvidia.com/gpu:NoSchedule or pool=gpu:NoExecute",
            )


@dataclass(frozen=True)
class RayConfig:
    """A Ray cluster (executor `ray`)."""

    address: str = "http://127.0.0.1:8265"
    """Address of the head's jobs API, which is also its dashboard."""

    def __post_init__(self) -> None:
        require(
            self.address.startswith(("http://", "https://")),
            f"execution.ray.address is {self.address!r}; give the address of the jobs API, such as http://127.0.0.1:8265",
        )


@dataclass(frozen=True)
class KubernetesConfig:
    """The pods that steps run in (executor `kubernetes`)."""

    image: str | None = None
    """Image with this project, its extra `kubernetes` and your configuration file."""
    namespace: str | None = None
    """Namespace of the pods; that of Dagster's run launcher when it is not given."""
    service_account: str | None = None
    """Service account of the pods; that of Dagster's run launcher when it is not given."""
    env_secrets: tuple[str, ...] = ()
    """Names of Secrets whose entries become environment variables of the pods, such as HF_TOKEN."""
    claim: str | None = None
    """Name of the PersistentVolumeClaim that holds the artifacts, writable from several nodes."""
    mount: str = "/artifacts"
    """Directory of the pods where the claim is mounted; `root` is below it."""

    def __post_init__(self) -> None:
        require(
            PurePosixPath(self.mount).is_absolute(),
            f"execution.kubernetes.mount is {self.mount!r}; give an absolute path",
        )


@dataclass(frozen=True)
class VllmConfig:
    """The engine of `sampler: vllm`. It has a process of its own, and none of these settings decides a result."""

    python: str = ""
    """Python of an environment that has vLLM, such as /opt/vllm/bin/python; empty for this one. vLLM pins other
    versions of many packages than this project, so that an environment of its own is often easier."""
    gpu_memory: float = 0.5
    """Share of each GPU's memory that the engine takes, weights and attention cache together; other models of the same
    step need the rest."""
    cpu_cache_gib: float = 1.0
    """Attention cache on a CPU, in GiB."""
    max_model_len: int = 0
    """Longest prompt and completion together, in tokens; 0 for what the policy can read. Lower it where the attention
    cache cannot hold one text of that length."""
    gpus: int = 1
    """GPUs that share the layers of one policy (tensor parallel)."""
    compile: bool = True
    """Whether the engine compiles the model when it starts; off, it starts sooner, needs no compiler and samples more
    slowly."""

    def __post_init__(self) -> None:
        require(
            0 < self.gpu_memory < 1,
            f"execution.vllm.gpu_memory is {self.gpu_memory}; choose a share between 0 and 1",
        )
        require(self.cpu_cache_gib > 0, f"execution.vllm.cpu_cache_gib is {self.cpu_cache_gib}; choose a size above 0")
        require(
            self.max_model_len >= 0,
            f"execution.vllm.max_model_len is {self.max_model_len}; 0 (what the policy can read) or a number of tokens",
        )
        require(self.gpus >= 1, f"execution.vllm.gpus is {self.gpus}; at least 1")


Tracker = Literal["trackio", "tensorboard", "wandb", "mlflow"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)
"""Trackers of training runs, by the name of their package and of the extra that installs it."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How Dagster runs the steps."""

    executor: Literal["in_process", "multiprocess", "ray", "kubernetes"] = "multiprocess"
    """Where steps run: one after another in the run's process, each in its own process, on a Ray cluster, or in
    Kubernetes pods."""
    category_steps: Literal["together", "apart"] = "together"
    """One process for the categories of a stage (models load once), or one step per category (each can fail and retry
    alone)."""
    gpu: GpuConfig = field(default_factory=GpuConfig)
    """What a heavy step needs."""
    processes: int = 0
    """Processes that train a policy together (SFT, DPO, GRPO, RLOO); 0: one per GPU of gpu.count, and one on a CPU.
    They share every batch, so that their number decides no result. A training whose batch does not divide among them
    takes fewer, and says so."""
    sharding: Literal["none", "fsdp2"] = "none"
    """How processes that train a policy together hold its frozen weights: each of them all of them, or each an equal
    part of every layer (`fsdp2`), which is gathered when the layer computes. For a policy that is too large to be
    trained on one GPU; adapters and their optimiser stay complete in each process."""
    ray: RayConfig = field(default_factory=RayConfig)
    """The Ray cluster."""
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)
    """The pods."""
    sampler: Literal["transformers", "vllm"] = added("transformers")
    """What samples a policy whose weights do not change: completion pools, own answers of SFT, replies of benchmarks
    and a local demonstrator. `vllm` needs a package of its own (docs/how-to/vllm.md), and pays for many rows. It draws
    other random numbers from the same distribution, so that what is drawn has other versions; greedy completions are
    shared. A policy in training is sampled by transformers, or by TRL's own engine (`policy.trl`)."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    """The engine of `sampler: vllm`."""
    report_to: tuple[Tracker, ...] = ()
    """Trackers that get the metrics of every training as it runs; each needs the extra of its name, and only a training
    that runs is tracked, not an artifact that is reused (docs/how-to/trl-options.md)."""

    def __post_init__(self) -> None:
        require(self.processes >= 0, f"execution.processes is {self.processes}; 0 (one per GPU) or their number")
        require(
            len(set(self.report_to)) == len(self.report_to),
            f"execution.report_to names a tracker twice: {', '.join(self.report_to)}",
        )
        require(
            self.executor != "kubernetes" or bool(self.kubernetes.image),
            "execution.executor is 'kubernetes' but execution.kubernetes.image is not set; "
            "name the image that steps run in",
        )

    @property
    def engine(self) -> VllmConfig | None:
        """The engine that samples, None where transformers does."""
        return self.vllm if self.sampler == "vllm" else None

    def most_processes(self, on_gpu: bool) -> int:
        """Return how many processes may train together.

        Args:
            on_gpu: whether policies compute on a GPU.
        """
        return self.processes or (max(1, self.gpu.count) if on_gpu else 1)

    def most_shards(self, on_gpu: bool) -> int:
        """Return among how many processes the frozen weights of a training are divided; 1 where each has them all.

        Args:
            on_gpu: whether policies compute on a GPU.
        """
        return self.most_processes(on_gpu) if self.sharding == "fsdp2" else 1

    def check_root(self, root: str) -> None:
        """Refuse a place for the artifacts that would vanish with the pod that wrote them.

        Args:
            root: the setting `root`.

        Raises:
            ConfigError: steps run in pods, and `root` is a directory outside the mounted claim.
        """
        if self.executor != "kubernetes" or "://" in root:
            return
        pods = self.kubernetes
        require(
            pods.claim is not None and PurePosixPath(root).is_relative_to(pods.mount),
            f"root is {root!r}, which goes with the pod that writes it; set execution.kubernetes.claim to a volume "
            f"claim and root to a directory below {pods.mount}, where it is mounted",
        )
