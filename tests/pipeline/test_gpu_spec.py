"""The resources a step requests, and their three translations, computed by hand."""

import json
import os
import subprocess
import sys

import dagster as dg
import pytest
from paths import ROOT

from pipeline.executors.gpu_share import taken_gpus
from pipeline.executors.gpu_spec import GpuSpec, gpu_spec, kubernetes_tags, op_tags, pool, ray_tags, toleration
from pipeline.instance.settings import load
from pipeline.wiring.factories import all_definitions

BIG = GpuSpec(True, 2, 4.0, 1.5, {"gpu": "h100"}, ("nvidia.com/gpu:NoSchedule", "pool=gpu"))
DRIVER = "#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\n'\n"


def test_a_heavy_step_requests_what_the_configuration_says():
    asked = {
        "execution.gpu.count": 2,
        "execution.gpu.cpus": 4,
        "execution.gpu.memory_gib": 1.5,
        "execution.gpu.tolerations": ["a:NoExecute"],
    }
    config = load("configs/demo.yaml", asked).config

    assert gpu_spec(True, config) == GpuSpec(True, 2, 4.0, 1.5, {}, ("a:NoExecute",))
    assert gpu_spec(False, config) == GpuSpec()


def test_a_configuration_for_the_cpu_requests_no_gpu():
    assert gpu_spec(True, load("configs/demo.yaml").config).count == 1
    assert gpu_spec(True, load("configs/demo.yaml", {"models.device": "cpu"}).config) == GpuSpec(heavy=True)


def test_heavy_steps_share_a_pool_with_or_without_a_gpu():
    assert (pool(BIG), pool(GpuSpec(heavy=True)), pool(GpuSpec())) == ("gpu", "gpu", None)


def test_ray_gets_numbers_and_bytes():
    """1.5 GiB = 1.5 * 2^30 = 1610612736 bytes; a step that requests nothing still takes one core."""
    assert ray_tags(BIG) == {"dagster-ray/config": {"num_cpus": 4.0, "num_gpus": 2.0, "memory": 1610612736}}
    assert ray_tags(GpuSpec()) == {"dagster-ray/config": {"num_cpus": 1.0}}


def test_kubernetes_gets_quantities_nodes_and_taints():
    resources = {"limits": {"nvidia.com/gpu": "2"}, "requests": {"cpu": "4", "memory": "1.5Gi"}}
    pod = {"node_selector": {"gpu": "h100"}, "tolerations": [toleration(text) for text in BIG.tolerations]}

    assert kubernetes_tags(BIG) == {
        "dagster-k8s/config": {"container_config": {"resources": resources}, "pod_spec_config": pod}
    }
    assert kubernetes_tags(GpuSpec(heavy=True, count=1)) == {
        "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}
    }
    assert kubernetes_tags(GpuSpec()) == {}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("gpu", {"key": "gpu", "operator": "Exists"}),
        ("nvidia.com/gpu:NoSchedule", {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}),
        ("pool=gpu:NoExecute", {"key": "pool", "operator": "Equal", "value": "gpu", "effect": "NoExecute"}),
        ("pool=", {"key": "pool", "operator": "Equal", "value": ""}),
    ],
)
def test_tolerations_are_read_as_kubectl_writes_taints(text, meant):
    assert toleration(text) == meant


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_local_executors_need_no_tags(executor):
    assert op_tags(BIG, executor) == {}


def test_every_step_has_the_tags_of_the_chosen_executor():
    defs = all_definitions(load("configs/demo.yaml", {"execution.executor": "ray", "execution.gpu.cpus": 3}))
    job = defs.resolve_implicit_global_asset_job_def()
    tags = {name: json.loads(job.get_node_named(name).definition.tags["dagster-ray/config"]) for name in ("policy_checkpoint", "prompt_pool", "check_dataset")}  # fmt: skip

    assert tags == {
        "policy_checkpoint": {"num_cpus": 3.0, "num_gpus": 1.0},
        "prompt_pool": {"num_cpus": 1.0},
        "check_dataset": {"num_cpus": 1.0},
    }


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """A driver that lists two GPUs, and no locks of other tests."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(DRIVER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_steps_at_once_take_different_gpus_and_then_share(two_gpus):
    with taken_gpus(1) as first, taken_gpus(1) as second, taken_gpus(1) as third, taken_gpus(2) as both:
        shown = [taken["CUDA_VISIBLE_DEVICES"] for taken in (first, second, third, both)]
    with taken_gpus(1) as later:
        assert later == {"CUDA_VISIBLE_DEVICES": "GPU-a"}

    assert shown[:3] == ["GPU-a", "GPU-b", "GPU-a"]
    assert set(shown[3].split(",")) == {"GPU-a", "GPU-b"}


def test_a_gpu_of_a_process_that_was_killed_is_free_again(two_gpus, tmp_path):
    code = (
        f"import tempfile, time; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from pipeline.executors.gpu_share import taken_gpus\n"
        "with taken_gpus(1) as taken: print(taken['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline().strip() == "GPU-a"
    with taken_gpus(1) as meanwhile:
        assert meanwhile["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    holder.kill()
    holder.wait()
    with taken_gpus(1) as afterwards:
        assert afterwards["CUDA_VISIBLE_DEVICES"] == "GPU-a"


@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("", 1), ("3,5", 0)])
def test_without_a_choice_nothing_is_taken(two_gpus, monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with taken_gpus(count) as taken:
        assert taken == {}


def test_only_gpus_that_this_process_may_see_are_taken(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    with taken_gpus(1) as first, taken_gpus(1) as second:
        assert [first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]] == ["3", "5"]


@pytest.mark.long
def test_a_heavy_worker_sees_one_gpu_and_a_light_one_all(two_gpus, stubbed, instance, project):
    names = ["prompt_pool", "safety_dataset_insult", "safety_dataset_harm", "helpful_dataset", "sft_checkpoint"]
    job = all_definitions(project).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(name) for name in names])
    lines = [entry.user_message for entry in instance.all_logs(result.run_id)]

    assert "GPUs: GPU-a" in lines
    assert "[helpful_dataset] GPUs: all" in lines
