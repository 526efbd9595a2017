"""Settings of execution: what contradicts itself is refused, and nothing of it makes an artifact stale."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import Config, from_resolved, load_config, resolved
from drirl_core.errors import ConfigError
from drirl_core.graph.layout import build_graph
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import code_version

PODS = {"executor": "kubernetes", "kubernetes": {"image": "drirl:1", "claim": "artifacts"}}


def _load(folder: Path, execution: dict[str, Any] | None = None, root: str = "/artifacts/runs") -> Config:
    file = folder / "run.yaml"
    settings = {
        "models": {"policy": "hf:org/policy", "encoder": "hf:org/encoder"},
        "root": root,
        "execution": execution or {},
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_config(file)


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (
            {"executor": "slurm"},
            r"execution\.executor is 'slurm'; choose one of in_process, multiprocess, ray, kubernetes",
        ),
        ({"executor": "kubernetes"}, r"is 'kubernetes' but execution\.kubernetes\.image is not set; name the image"),
        ({"gpu": {"count": -1}}, r"execution\.gpu\.count is -1; at least 0"),
        ({"gpu": {"cpus": -0.5}}, r"execution\.gpu\.cpus is -0\.5; at least 0"),
        ({"gpu": {"memory_gib": -1}}, r"execution\.gpu\.memory_gib is -1\.0; at least 0"),
        (
            {"gpu": {"tolerations": ["gpu:Sometimes"]}},
            r"'gpu:Sometimes' is no toleration; write it as kubectl writes a taint",
        ),
        (
            {"gpu": {"node_selector": {"gpu": True}}},
            r"execution\.gpu\.node_selector\.gpu is True \(bool\); give a text",
        ),
        (
            {"ray": {"address": "ray://head:10001"}},
            r"execution\.ray\.address is 'ray://head:10001'; give the address of the jobs API",
        ),
        ({"kubernetes": {"mount": "artifacts"}}, r"execution\.kubernetes\.mount is 'artifacts'; give an absolute path"),
    ],
)
def test_contradictions_are_refused_before_anything_runs(
    tmp_path: Path, execution: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, execution)


@pytest.mark.parametrize(
    ("root", "pods"), [(".drirl/artifacts", {}), ("/artifacts-too", {}), ("/artifacts/runs", {"claim": None})]
)
def test_artifacts_may_not_lie_on_the_pods_own_disk(tmp_path: Path, root: str, pods: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"goes with the pod that writes it; set execution\.kubernetes\.claim .* below /artifacts"
    ):
        _load(tmp_path, {**PODS, "kubernetes": {**PODS["kubernetes"], **pods}}, root)


@pytest.mark.parametrize("root", ["/artifacts/runs", "s3://bucket/runs"])
def test_artifacts_may_lie_on_the_claim_or_in_a_bucket(tmp_path: Path, root: str) -> None:
    config = _load(tmp_path, PODS, root)

    assert (config.root, from_resolved(resolved(config))) == (root, config)


def test_where_steps_run_makes_nothing_stale(tmp_path: Path) -> None:
    here = _load(tmp_path, {"executor": "in_process"})
    elsewhere = _load(
        tmp_path,
        {
            **PODS,
            "category_steps": "apart",
            "sharding": "fsdp2",
            "gpu": {"count": 2, "node_selector": {"gpu": "h100"}},
        },
    )
    versions = [
        {node.name: code_version(node, config) for node in build_graph(config).nodes.values()}
        for config in (here, elsewhere)
    ]

    assert versions[0] == versions[1]
    read = {section for stage in STAGES.values() for section in stage.config if section.startswith("execution")}
    assert read == {"execution.sampler"}


def test_the_sampler_makes_stale_what_is_drawn_at_random_and_its_engine_nothing(tmp_path: Path) -> None:
    """Greedy replies are the same but for rounding, so that SFT and benchmarks stay; a sampled score is drawn."""

    def versions(score: str, **execution: Any) -> dict[str, str]:
        config = _load(tmp_path, {"executor": "in_process", **execution})
        config = dataclasses.replace(config, benchmarks=dataclasses.replace(config.benchmarks, score=score))
        return {node.name: code_version(node, config) for node in build_graph(config).nodes.values()}

    def changed(score: str) -> set[str]:
        before, now = versions(score), versions(score, sampler="vllm")
        assert versions(score, sampler="vllm", vllm={"cpu_cache_gib": 4.0, "max_model_len": 64}) == now
        return {name for name in now if now[name] != before[name]}

    assert versions("margin", sampler="transformers", vllm={"gpu_memory": 0.2}) == versions("margin")
    pools = {name for name in versions("margin") if name.startswith("completion_pool")}
    assert changed("margin") == pools != set()
    assert changed("samples") - pools == {name for name in versions("margin") if name.startswith("benchmark_")}
