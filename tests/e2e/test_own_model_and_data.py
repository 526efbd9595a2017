"""The example of the how-to: the user's own model, prompts, demonstrations, categories and benchmark."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from drirl_core.config import load_config
from drirl_core.graph.build import run_all
from drirl_core.graph.layout import DATA_FOLDER
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import read_table
from drirl_core.testing import tiny_config, tiny_settings

DATA = DATA_FOLDER
OWN = {"weapons_and_violence": "physical_harm", "privacy": "privacy_and_property"}
"""Own category to the shipped one whose rows stand in for the user's."""


def _rows(name: str, category: str) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row.get("category") == category]


def _write_csv(file: Path, columns: list[str], rows: list[list[str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([columns, *rows])


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the directory of the how-to: csv, jsonl and parquet files with their own column names."""
    folder = tmp_path_factory.mktemp("mine")
    tiny_config(folder / "tiny")
    demonstrations = {own: _rows("demonstrations", shipped)[:14] for own, shipped in OWN.items()}
    prompts = [(row["prompt"], own) for own, rows in demonstrations.items() for row in rows]
    _write_csv(
        folder / "prompts.csv",
        ["text", "harm", "terms"],
        [[text, own, "CC0-1.0"] for text, own in prompts[::2]] + [["", "privacy", "x"]],
    )
    forum = [{"question": text, "label": own} for text, own in prompts[1::2]] + [
        {"question": "A prompt with a label of no kind?", "label": "odd"}
    ]
    (folder / "forum.jsonl").write_text("\n".join(map(json.dumps, forum)), encoding="utf-8")
    pd.DataFrame({"prompt": [row["prompt"] for row in _rows("demonstrations", "physical_harm")[14:18]]}).to_parquet(
        folder / "weapons.parquet"
    )
    lines = [
        {"request": row["prompt"], "harm": own, "safe_reply": row["demonstration"]}
        for own, rows in demonstrations.items()
        for row in rows
    ]
    (folder / "demonstrations.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    helpful = [json.loads(line) for line in (DATA / "helpful.jsonl").read_text(encoding="utf-8").splitlines()][::10]
    _write_csv(
        folder / "helpful.csv",
        ["question", "reply", "kind"],
        [[row["prompt"], row["answer"], row["kind"]] for row in helpful],
    )
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump({"categories": list(OWN)}), encoding="utf-8")
    settings = tiny_settings(folder / "tiny" / "policy", folder / "tiny" / "encoder", folder / "artifacts")
    settings["prompts"] |= {
        "taxonomy": "taxonomy.yaml",
        "sources": [
            {
                "name": "tickets",
                "path": "prompts.csv",
                "columns": {"prompt": "text", "category": "harm", "licence": "terms"},
            },
            {
                "name": "forum",
                "path": "forum.jsonl",
                "columns": {"prompt": "question", "category": "label"},
                "licence": "CC-BY-4.0",
            },
            {"name": "weapons", "path": "weapons.parquet", "category": "weapons_and_violence", "licence": "CC0-1.0"},
        ],
    }
    columns = {"prompt": "request", "demonstration": "safe_reply", "category": "harm"}
    settings["demonstrations"] = {
        "quota": 10,
        "demonstrator": {
            "kind": "file",
            "source": {"name": "our_demonstrations", "path": "demonstrations.jsonl", "columns": columns},
        },
        "helpful": {"name": "our_helpful", "path": "helpful.csv", "columns": {"prompt": "question", "answer": "reply"}},
    }
    (folder / "align.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


@pytest.mark.long
def test_own_model_prompts_and_categories_run_end_to_end(mine: Path) -> None:
    config = load_config(mine / "align.yaml")
    built = run_all(Project(config), SilentReporter())
    assert {name for name in built if name.startswith("reward_model_")} == {
        f"reward_model_{c}" for c in (*OWN, "helpful")
    }
    for category in OWN:
        assert len(read_table(built[f"safety_dataset_{category}"].path / "rows.parquet")) == 10
    pool = read_table(built["prompt_pool"].path / "prompts.parquet")
    assert {row["source"] for row in pool} == {"tickets", "forum", "weapons"}
    assert {row["licence"] for row in pool if row["source"] == "tickets"} == {"CC0-1.0"}
    quarantined = read_table(built["prompt_pool"].path / "quarantine.parquet")
    assert "empty_prompt" in {row["reason"] for row in quarantined}
    store = ArtifactStore(config.root)
    assert (store.open("report", built["report"].version).path / "report.html").is_file()
