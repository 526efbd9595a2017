"""Hand-made artifact folders for the report's tests: two categories, known replies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core.benchmarks.examine import classifier_examinee, examine, examined, policy_examinee
from drirl_core.benchmarks.measure import judge, results
from drirl_core.benchmarks.suites import BenchmarkRow
from drirl_core.config import Config, ModelsConfig, PromptsConfig, SourceConfig
from drirl_core.graph.build import Context
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.tables import prompt_id, write_table

CATEGORIES = ("insult", "fraud")
REFUSAL = "I'm sorry, but I can't help with that. Talk to somebody you trust instead, and take your time."
ANSWER = "Sure, here is a good way to do it: begin early, take small steps and rest now and then."
LOOP = "again " * 40
POLICIES = ("base", "sft", "dr_irl")

_REPLIES = pa.schema(
    [(name, pa.string()) for name in ("suite", "group", "category", "prompt_id", "prompt", "policy", "reply", "label")]
)
_REWARDS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("split", pa.string()),
        ("policy", pa.string()),
        ("sample", pa.int32()),
        ("reward", pa.float64()),
    ]
)
_HARDNESS = pa.schema(
    [("prompt_id", pa.string()), ("category", pa.string())]
    + [(name, pa.float64()) for name in ("similarity", "delta", "alpha_d", "gap")]
    + [("kept", pa.bool_()), ("alpha_m", pa.float64()), ("alpha", pa.float64())]
)


class ReportFolders:
    """Folders of all inputs of the report.

    Args:
        folder: where to make them.
        refuses: for each policy, how many of the 40 unsafe and of the 40 safe prompts it refuses.
        unsafe_answer: what a policy says to an unsafe prompt that it does not refuse.
    """

    def __init__(
        self, folder: Path, refuses: Mapping[str, tuple[int, int]], unsafe_answer: str = ANSWER, **settings: Any
    ) -> None:
        self.folder = folder
        taxonomy = folder / "taxonomy.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        taxonomy.write_text("categories: [insult, fraud]\n", encoding="utf-8")
        prompts = PromptsConfig(
            sources=(SourceConfig(name="own", path=str(folder / "own.jsonl")),), taxonomy=str(taxonomy)
        )
        models = ModelsConfig(policy="path:/models/tiny-policy", encoder="path:/models/tiny-encoder")
        self.config = Config(models=models, name="hand made", root=str(folder / "store"), prompts=prompts, **settings)
        self.rows = self._suite_rows()
        self.replies = [
            self._reply(policy, row, refuses[policy], unsafe_answer) for policy in refuses for row in self.rows
        ]
        self._benchmark(list(refuses))
        self._policies("sft" in refuses)
        for category in (*CATEGORIES, "helpful"):
            self._reward_model(category)
        for category in CATEGORIES:
            self._hardness(category)
        self._balance()

    def context(self, out: str = "out") -> Context:
        """Return a context with everything made so far."""
        target = self.folder / out
        target.mkdir(exist_ok=True)
        inputs = {path.name: path for path in sorted((self.folder / "inputs").iterdir())}
        project = Project(self.config)
        return Context(self.config, None, inputs, target, target, project.store, SilentReporter(), graph=project.graph)

    def input(self, name: str) -> Path:
        """Return the folder of an input, made on first use, with a manifest."""
        path = self.folder / "inputs" / name
        if not path.is_dir():
            path.mkdir(parents=True)
            manifest = {"asset": name, "version": "0" * 16, "inputs": {}, "metadata": {"seconds": 12.5}, "files": {}}
            self.write(path / "manifest.json", manifest)
        return path

    def write(self, path: Path, value: Any) -> None:
        """Write JSON."""
        path.write_text(json.dumps(value), encoding="utf-8")

    def _suite_rows(self) -> list[BenchmarkRow]:
        made = []
        for group in ("unsafe", "safe_look_alike"):
            for number in range(40):
                text = f"{group} prompt number {number}"
                twin = f"pair {number}"
                made.append(BenchmarkRow("embedded", group, CATEGORIES[number % 2], prompt_id(text), text, (), twin))  # type: ignore[arg-type]
        for number in range(10):
            text = f"helpful prompt number {number}"
            made.append(BenchmarkRow("embedded", "helpful", "facts", prompt_id(text), text, ("good way",)))
        return made

    def _reply(self, policy: str, row: BenchmarkRow, refused: tuple[int, int], unsafe_answer: str) -> Any:
        number = int(row.prompt.rsplit(" ", 1)[1])
        limit = {"unsafe": refused[0], "safe_look_alike": refused[1], "helpful": 0}[row.group]
        answer = unsafe_answer if row.group == "unsafe" else ANSWER
        return judge(row, policy, REFUSAL if number < limit else answer, tokens=20, finished=True)

    def _benchmark(self, policies: Sequence[str]) -> None:
        path = self.input("benchmark_embedded")
        asked = examined(self.rows)
        examinees = [classifier_examinee("floor", [float(row.group == "unsafe") for row in asked], 0.5)]
        for policy in policies:
            own = [r for r in self.replies if r.policy == policy and r.row in asked]
            # Refusals score 1, prompts with an even number half a point more.
            scores = [(r.label == "refusal") + 0.5 * (int(r.row.prompt[-1]) % 2 == 0) for r in own]
            examinees.append(policy_examinee(policy, own, scores))
        examinees.append(classifier_examinee("ceiling", [float(row.group == "unsafe") for row in asked], 0.5))
        found = {
            "suite": {"name": "embedded", "version": "1", "licence": "CC-BY-4.0", "home": "here"},
            "groups": {"unsafe": 40, "safe_look_alike": 40, "helpful": 10},
            "decoding": {"temperature": 0, "max_new_tokens": 64},
            "score": {"kind": "margin"},
            **results(self.replies, 500, 0),
            **examine(asked, examinees, 500, 0),
        }
        assert found["policies"] == list(policies)
        self.write(path / "results.json", found)
        self.save_replies([self._record(r) for r in self.replies])

    def _record(self, r: Any) -> dict[str, Any]:
        return {
            "suite": r.row.suite,
            "group": r.row.group,
            "category": r.row.category,
            "prompt_id": r.row.prompt_id,
            "prompt": r.row.prompt,
            "policy": r.policy,
            "reply": r.reply,
            "label": r.label,
        }

    def save_replies(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the table of replies."""
        write_table(self.input("benchmark_embedded") / "replies.parquet", rows, _REPLIES)

    def _policies(self, with_sft: bool) -> None:
        policy = self.input("policy_checkpoint")
        log = [
            {
                "step": step,
                "loss": 0.1,
                "reward": 0.1 * step,
                "kl": 0.01 * step,
                "entropy": 2.0,
                "frac_reward_zero_std": 0.25,
                "completions/mean_length": 30.0,
                "alpha/std": 0.05,
                **{f"alpha/{c}/mean": 1.0 + 0.01 * step for c in CATEGORIES},
                **{f"gap/{c}/mean": 2.0 - 0.1 * step for c in CATEGORIES},
            }
            for step in range(1, 6)
        ]
        (policy / "training_log.jsonl").write_text("\n".join(map(json.dumps, log)), encoding="utf-8")
        self.write(
            policy / "metrics.json",
            {"steps": 5, "first_reward": 0.1, "last_reward": 0.5, "kl": 0.05, "mean_length": 30.0},
        )
        if with_sft:
            self.write(
                self.input("sft_checkpoint") / "metrics.json",
                {"rows": 90, "steps": 12, "first_loss": 3.0, "last_loss": 1.5},
            )

    def _reward_model(self, category: str) -> None:
        rows = []
        for prompt in range(4):
            rows.append(
                {"prompt_id": f"p{prompt}", "split": "test", "policy": "demonstration", "sample": 0, "reward": 2.0}
            )
            for sample, reward in enumerate((0.5, 3.0 if prompt == 0 else 1.0)):
                rows.append(
                    {"prompt_id": f"p{prompt}", "split": "test", "policy": "base", "sample": sample, "reward": reward}
                )
            rows.append(
                {"prompt_id": f"p{prompt}", "split": "test", "policy": "corrupted", "sample": 0, "reward": -3.0}
            )
        rows.append({"prompt_id": "t", "split": "train", "policy": "base", "sample": 0, "reward": 99.0})
        write_table(self.input(f"reward_model_{category}") / "rewards.parquet", rows, _REWARDS)

    def _hardness(self, category: str) -> None:
        path = self.input(f"hardness_{category}")
        rows = [
            {
                "prompt_id": f"p{i}",
                "category": category,
                "similarity": 0.5,
                "delta": 0.5,
                "alpha_d": 0.9 + 0.05 * i,
                "gap": float(i),
                "kept": i != 3,
                "alpha_m": 0.98,
                "alpha": 0.88 + 0.05 * i,
            }
            for i in range(4)
        ]
        write_table(path / "hardness.parquet", rows, _HARDNESS)
        self.write(
            path / "constants.json",
            {"mean_delta": 0.5, "tau": 1.0, "mean_gap": 1.5, "filtered_gap": 1.0, "alpha_m": 0.98, "n": 4},
        )

    def _balance(self) -> None:
        category = {
            "raw": 30,
            "kept": 25,
            "rows": 20,
            "pool": 18,
            "fill_up": 2,
            "resampled": 0,
            "train": 16,
            "validation": 2,
            "test": 2,
        }
        report = {
            "quota": 20,
            "categories": {name: dict(category) for name in CATEGORIES},
            "before": {"imbalance_ratio": None, "normalised_entropy": 0.8},
            "cleaned": {"imbalance_ratio": 1.5, "normalised_entropy": 0.9},
            "after": {"imbalance_ratio": 1.0, "normalised_entropy": 1.0},
            "largest_resampled_share": 0.0,
            "helpful": {"rows": 44, "train": 40, "validation": 2, "test": 2},
        }
        self.write(self.input("balance_report") / "balance.json", report)
