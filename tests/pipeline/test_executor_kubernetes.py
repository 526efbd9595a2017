"""Steps in Kubernetes pods: the Jobs that dagster-k8s submits for our settings, and that they do the work."""

import copy
import os
import subprocess
import sys
from types import SimpleNamespace

import dagster as dg
import pytest
import stub_stages
import yaml
from places import FOLDER, ROOT

from drirl_core.errors import ConfigError
from drirl_core.graph.build import build
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import source_version
from drirl_core.reporting import SilentReporter
from pipeline.executors.choice import executor_of
from pipeline.instance.settings import load
from pipeline.wiring.resolve import recorded_version

pytest.importorskip("dagster_k8s")

from kubernetes_api import Cluster

MODELS = {"policy": "hf:stub/none", "encoder": "hf:stub/none"}  # named, and never loaded
INPUTS = ("prompt_pool", "safety_dataset_insult", "safety_dataset_harm", "helpful_dataset")


class Run:
    """One run of a heavy asset and its check in the stand-in cluster."""

    def __init__(self, folder, cluster):
        self.folder, self.cluster, self.home = folder, cluster, folder / "home"
        self.config_file = stub_stages.write_settings(
            folder, execution=self.execution(), models={**MODELS, "device": "cuda"}
        )
        self.project = load(self.config_file)
        self.home.mkdir()
        launcher = {
            "service_account_name": "dagster",
            "instance_config_map": "dagster-instance",
            "dagster_home": "/opt/dagster/home",
        }
        launcher |= {
            "load_incluster_config": False,
            "kubeconfig_file": str(cluster.kubeconfig),
            "job_namespace": "dagster",
        }
        settings = yaml.safe_load((ROOT / "dagster.yaml").read_text())
        settings["run_launcher"] = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher}
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(settings))

    def execution(self):
        return {
            "executor": "kubernetes",
            "gpu": {"count": 1, "cpus": 4, "memory_gib": 24, "node_selector": {"gpu": "h100"}, "tolerations": ["nvidia.com/gpu:NoSchedule"]},
            "kubernetes": {
                "image": "registry.example/drirl:1", "namespace": "training", "service_account": "trainer", "env_secrets": ["hub"],
                "claim": "artifacts", "mount": str(self.folder / "artifacts"),
            },
        }  # fmt: skip

    def prepare(self, instance):
        graph = self.project.graph
        versions = {name: source_version(path) for name, path in graph.sources.items()}
        for name in INPUTS:
            versions[name] = build(graph.nodes[name], self.project, versions, SilentReporter())[0].version
            instance.report_runless_asset_event(
                dg.AssetMaterialization(name, tags={"dagster/data_version": versions[name]})
            )
        self.expected = build(graph.nodes["sft_checkpoint"], self.project, versions, SilentReporter())[0].version

    def materialize(self):
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "stub_location", "-d", str(FOLDER)]
        environment = {**os.environ, "DAGSTER_HOME": str(self.home), "DRIRL_CONFIG": str(self.config_file)}
        return subprocess.run(
            [*command, "--select", "sft_checkpoint"], cwd=ROOT, env=environment, capture_output=True, text=True
        )

    def pods(self):
        """Manifests by step."""
        return {job["metadata"]["labels"]["dagster/op"]: job for job in self.cluster.jobs.values()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that succeeded."""
    folder, before = tmp_path_factory.mktemp("kubernetes"), dict(STAGES)
    stub_stages.install()
    cluster = Cluster(folder)
    try:
        made = Run(folder, cluster)
        with dg.DagsterInstance.from_config(str(made.home)) as instance:
            made.prepare(instance)
            done = made.materialize()
            assert done.returncode == 0, done.stderr
            made.recorded = recorded_version(instance, "sft_checkpoint")
        yield made
    finally:
        cluster.close()
        STAGES.update(before)


def _container(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.slow
def test_pods_make_what_any_other_process_makes(run):
    assert run.recorded == run.expected
    assert set(run.pods()) == {"sft_checkpoint", "check_sft_checkpoint"}
    assert {job["path"] for job in run.pods().values()} == {"/apis/batch/v1/namespaces/training/jobs"}


@pytest.mark.slow
def test_a_heavy_step_asks_for_its_gpu_and_a_light_one_for_nothing(run):
    heavy, light = run.pods()["sft_checkpoint"], run.pods()["check_sft_checkpoint"]
    pod = heavy["spec"]["template"]["spec"]

    assert _container(heavy)["resources"] == {
        "limits": {"nvidia.com/gpu": "1"},
        "requests": {"cpu": "4", "memory": "24Gi"},
    }
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert not _container(light).get("resources")
    assert {"nodeSelector", "tolerations"} & set(light["spec"]["template"]["spec"]) == set()


@pytest.mark.slow
def test_every_pod_has_image_account_configuration_home_secrets_and_the_artifacts(run):
    for job in run.pods().values():
        container, pod = _container(job), job["spec"]["template"]["spec"]
        variables = {entry["name"]: entry["value"] for entry in container["env"]}

        assert container["image"] == "registry.example/drirl:1"
        assert pod["serviceAccountName"] == "trainer"
        assert variables["DRIRL_CONFIG"] == str(run.config_file)
        assert variables["DAGSTER_HOME"] == "/opt/dagster/home"
        assert container["envFrom"] == [{"secretRef": {"name": "hub"}}]
        assert container["volumeMounts"] == [{"name": "artifacts", "mountPath": str(run.folder / "artifacts")}]
        assert pod["volumes"] == [{"name": "artifacts", "persistentVolumeClaim": {"claimName": "artifacts"}}]
        assert run.project.config.root.startswith(container["volumeMounts"][0]["mountPath"])


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifests_are_valid_for_kubernetes(run, version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for job in run.pods().values():
        manifest = {key: value for key, value in copy.deepcopy(job).items() if key != "path"}
        kubernetes_validate.validate(manifest, version, strict=True)
        manifest["spec"]["template"]["spec"]["tolerations"] = [{"ky": "wrong"}]
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_an_instance_outside_the_cluster_is_refused_with_the_way_in(tmp_path, instance):
    pods = {"image": "drirl:1", "claim": "artifacts", "mount": str(tmp_path)}
    config = load(stub_stages.write_settings(tmp_path, execution={"executor": "kubernetes", "kubernetes": pods})).config

    with pytest.raises(
        ConfigError, match=r"launches runs with \w+; run Dagster in the cluster, with `run_launcher: .*K8sRunLauncher"
    ):
        executor_of(config).executor_creation_fn(SimpleNamespace(instance=instance))
