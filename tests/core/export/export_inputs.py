"""A policy with everything that an export of it needs: two trainings with LoRA on a tiny model, and hand-made results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from report_inputs import ReportFolders

from drirl_core.checks.gates import Gate
from drirl_core.checks.verdicts import Verdict
from drirl_core.config import LoraConfig, ModelsConfig
from drirl_core.demonstrations.publish import ROWS
from drirl_core.export.material import Material
from drirl_core.models.adapters import peft_config
from drirl_core.models.loading import load_policy
from drirl_core.policy.training import save_merged
from drirl_core.store.artifacts import Artifact
from drirl_core.store.tables import write_table

COUNTS = {"base": (2, 0), "sft": (20, 8), "dr_irl": (36, 8)}


def train(start: Path, folder: Path, lora: LoraConfig, seed: int) -> Path:
    """Adapt a policy at random, and save it as a training does."""
    import peft

    policy = load_policy(start, ModelsConfig(policy=f"path:{start}", encoder="path:/e", dtype="float32", device="cpu"))
    adapted = peft.get_peft_model(policy.model, peft_config(lora, 2))
    torch.manual_seed(seed)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    save_merged(adapted, policy, folder)
    return folder


def material(folder: Path, base: Path, *, passed: bool = True, policy: str = "dr_irl") -> Material:
    """Make the material of an export below a folder."""
    folders = ReportFolders(folder / "made", COUNTS)
    versions = {"sft_checkpoint": "a" * 16, "policy_checkpoint": "b" * 16}
    paths = {name: folder / "store" / name / version for name, version in versions.items()}
    train(base, paths["sft_checkpoint"], LoraConfig(rank=2, alpha=4, targets=("q_proj", "v_proj")), 1)
    train(
        paths["sft_checkpoint"],
        paths["policy_checkpoint"],
        LoraConfig(rank=3, alpha=3, targets=("v_proj", "up_proj")),
        2,
    )
    for name, path in paths.items():
        (path / "metrics.json").write_text((folders.input(name) / "metrics.json").read_text("utf-8"), "utf-8")
        for extra in ("manifest.json", "training_log.jsonl", "README.md"):
            (path / extra).write_text("{}", encoding="utf-8")
    data = folder / "store" / "safety_dataset_insult" / ("c" * 16)
    data.mkdir(parents=True)
    rows = [
        {name: "x" for name in ROWS.names} | {"split": split, "source": "own", "licence": "CC0-1.0"}
        for split in ("train", "test")
    ]
    write_table(data / "rows.parquet", rows, ROWS)
    made = {name: artifact(name, path) for name, path in paths.items()}
    trained = (made["sft_checkpoint"],) if policy == "sft" else (made["sft_checkpoint"], made["policy_checkpoint"])
    gates = (
        Gate("promotion_candidate", "refusal_floor", Verdict(True, "refuses 90 %")),
        Gate("promotion_candidate", "over_refusal_bound", Verdict(passed, "refuses 20 % of | the safe ones")),
        Gate("policy_checkpoint", "finite", Verdict(True, "all finite")),
    )
    return Material(
        folders.config, policy, trained[-1], trained, (artifact("benchmark_embedded", folders.input("benchmark_embedded")),),
        {"safety_dataset_insult": artifact("safety_dataset_insult", data)}, gates if policy == "dr_irl" else (),
    )  # fmt: skip


def artifact(name: str, path: Path, **manifest: Any) -> Artifact:
    """Return an artifact of a directory."""
    return Artifact(name, path.name if len(path.name) == 16 else "d" * 16, path, manifest)
