"""Balance: hand-worked measures, and the report over small data sets."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.config import Config, DemonstrationsConfig, ModelsConfig
from drirl_core.demonstrations.balance import build_balance_report, imbalance_ratio, normalised_entropy
from drirl_core.errors import DataError
from drirl_core.graph.build import Context
from drirl_core.reporting import Plot, SilentReporter, Table
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import write_table

COUNTS = st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 10**6), min_size=1).filter(
    lambda c: sum(c.values()) > 0
)


def test_imbalance_ratio_by_hand() -> None:
    """160 / 60 = 8 / 3."""
    assert imbalance_ratio({"a": 160, "b": 60, "c": 100}) == pytest.approx(8 / 3)
    assert imbalance_ratio({"a": 7}) == 1
    assert imbalance_ratio({"a": 7, "b": 0}) == math.inf


def test_normalised_entropy_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4: H = 1/2 ln 2 + 2 * 1/4 ln 4 = 3/2 ln 2 = 1.0397; ln 3 = 1.0986; H / ln 3 = 0.9464."""
    assert normalised_entropy({"a": 2, "b": 1, "c": 1}) == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert normalised_entropy({"a": 2, "b": 1, "c": 1}) == pytest.approx(0.9464, abs=5e-5)
    assert normalised_entropy({"a": 5, "b": 5}) == 1
    assert normalised_entropy({"a": 5, "b": 0}) == 0
    assert normalised_entropy({"a": 5}) == 1


@pytest.mark.parametrize("measure", [imbalance_ratio, normalised_entropy])
@pytest.mark.parametrize("counts", [{}, {"a": 0, "b": 0}, {"a": 3, "b": -1}])
def test_counts_without_meaning_are_refused(measure: Any, counts: dict[str, int]) -> None:
    with pytest.raises(DataError, match="balance needs counts"):
        measure(counts)


@given(COUNTS, st.integers(1, 100))
def test_measures_stay_in_range_and_ignore_scale(counts: dict[str, int], factor: int) -> None:
    scaled = {name: n * factor for name, n in counts.items()}
    assert 0 <= normalised_entropy(counts) <= 1
    assert normalised_entropy(scaled) == pytest.approx(normalised_entropy(counts))
    assert imbalance_ratio(counts) >= 1
    assert imbalance_ratio(scaled) == imbalance_ratio(counts) or imbalance_ratio(scaled) == pytest.approx(
        imbalance_ratio(counts)
    )


def dataset(path: Path, origins: dict[str, int], held_out: int = 1) -> Path:
    path.mkdir(parents=True)
    kinds = [origin for origin, n in origins.items() for _ in range(n)]
    splits = ["validation"] * held_out + ["test"] * held_out + ["train"] * (len(kinds) - 2 * held_out)
    rows = [
        {"prompt_id": f"{i:016x}", "split": split, "origin": origin}
        for i, (split, origin) in enumerate(zip(splits, kinds, strict=True))
    ]
    write_table(
        path / "rows.parquet", rows, pa.schema([(name, pa.string()) for name in ("prompt_id", "split", "origin")])
    )
    return path


def context(folder: Path, raw: dict[str, int], quota: int = 0, **own: int) -> Context:
    pool = folder / "pool"
    pool.mkdir(parents=True)
    counts: dict[str, Any] = {name: {"raw": n, "kept": n - 1} for name, n in raw.items()}
    (pool / "counts.json").write_text(json.dumps({**counts, "reasons": {"near_duplicate": 2}}), encoding="utf-8")
    inputs = {
        "prompt_pool": pool,
        "safety_dataset_insult": dataset(folder / "insult", {"pool": 6, "fill_up": 2, "resampled": 2}),
        "safety_dataset_mental_health": dataset(folder / "mental", {"pool": 10}),
        "helpful_dataset": dataset(folder / "helpful", {"pool": 20}, held_out=3),
    }
    models = ModelsConfig(policy="path:x", encoder="path:x")
    config = Config(models=models, demonstrations=DemonstrationsConfig(quota=quota, category_quota=own))
    out = folder / "out"
    out.mkdir()
    return Context(config, None, inputs, out, folder / "scratch", ArtifactStore(folder / "store"), SilentReporter())


def test_report_counts_before_and_after(tmp_path: Path) -> None:
    """Before 9 and 30 prompts: ratio 30/9. After 10 and 10. Resampled 2 of a quota of 60: 0.0333."""
    given_context = context(tmp_path, {"insult": 9, "mental_health": 30}, quota=60)
    shown = build_balance_report(given_context)
    report = json.loads((given_context.out / "balance.json").read_text(encoding="utf-8"))
    assert report["before"]["imbalance_ratio"] == pytest.approx(30 / 9)
    assert report["cleaned"]["imbalance_ratio"] == pytest.approx(29 / 8)
    assert report["after"] == {"imbalance_ratio": 1.0, "normalised_entropy": 1.0}
    assert report["categories"]["insult"] == {
        "raw": 9, "kept": 8, "rows": 10, "pool": 6, "fill_up": 2, "resampled": 2,
        "train": 8, "validation": 1, "test": 1, "resampled_share": 0.0333,
    }  # fmt: skip
    assert report["helpful"] == {"rows": 20, "train": 14, "validation": 3, "test": 3}
    assert report["largest_resampled_share"] == shown["largest_resampled_share"] == 0.0333
    assert shown["rows"] == 20
    assert isinstance(shown["counts"], Table)
    assert [row["category"] for row in shown["counts"].rows] == ["insult", "mental_health"]
    assert isinstance(shown["plot"], Plot)
    assert (given_context.out / "balance.png").read_bytes().startswith(b"\x89PNG")


def test_a_category_with_a_quota_of_its_own_is_measured_against_that(tmp_path: Path) -> None:
    """Two resampled rows of a quota of 10, where the others have 60: a fifth."""
    given_context = context(tmp_path, {"insult": 9, "mental_health": 30}, quota=60, insult=10)
    build_balance_report(given_context)
    report = json.loads((given_context.out / "balance.json").read_text(encoding="utf-8"))
    assert (report["quota"], report["category_quota"]) == (60, {"insult": 10})
    assert report["categories"]["insult"]["resampled_share"] == report["largest_resampled_share"] == 0.2


def test_report_of_equal_inputs_has_equal_bytes(tmp_path: Path) -> None:
    made = [context(tmp_path / name, {"insult": 9, "mental_health": 30}) for name in ("one", "two")]
    for one in made:
        build_balance_report(one)
    for name in ("balance.json", "balance.png"):
        assert (made[0].out / name).read_bytes() == (made[1].out / name).read_bytes()


def test_an_empty_category_is_null_in_json_and_words_in_the_metadata(tmp_path: Path) -> None:
    given_context = context(tmp_path, {"mental_health": 30})
    shown = build_balance_report(given_context)
    assert shown["imbalance_ratio_before"] == "a category is empty"
    assert (
        json.loads((given_context.out / "balance.json").read_text(encoding="utf-8"))["before"]["imbalance_ratio"]
        is None
    )


def test_a_damaged_pool_is_named(tmp_path: Path) -> None:
    given_context = context(tmp_path, {"insult": 9})
    (given_context.inputs["prompt_pool"] / "counts.json").write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match="materialize prompt_pool"):
        build_balance_report(given_context)
