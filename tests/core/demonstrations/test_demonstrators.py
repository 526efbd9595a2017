"""Who writes demonstrations: files, endpoints and local models with one protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chat_server import Server, chat

from drirl_core.config import (
    Config,
    DemonstrationsConfig,
    DemonstratorConfig,
    InboxConfig,
    ModelsConfig,
    OperationsConfig,
    SourceConfig,
)
from drirl_core.demonstrations.demonstrators import (
    ABSENT,
    EndpointDemonstrator,
    FileDemonstrator,
    ModelDemonstrator,
    make_demonstrator,
)
from drirl_core.demonstrations.endpoint import ChatEndpoint, EndpointError
from drirl_core.demonstrations.validate import Failure
from drirl_core.errors import ConfigError, DataError
from drirl_core.models import sampling
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import write_table
from drirl_core.taxonomy import SEVEN_CATEGORIES
from drirl_core.text import chain_of_draft as cod

CATEGORIES = ("insult", "mental_health")
KEY = "sk-very-secret-0123456789"


def of_file(path: Path, **source: Any) -> FileDemonstrator:
    return FileDemonstrator(
        DemonstratorConfig(source=SourceConfig(name="mine", path=str(path), **source)), path, CATEGORIES
    )


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_file_gives_its_demonstration_for_any_spacing(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "d.jsonl",
        {"prompt": "Mock  my\u0301 friend ", "category": "insult", "demonstration": "a\n####\nI can't."},
    )
    written = of_file(path).write([("Mock m\u00fd friend", "insult"), ("another", "insult")])
    assert written[0] == "a\n####\nI can't."
    assert isinstance(written[1], Failure)
    assert written[1].reason == ABSENT


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_of_three_kinds_are_read_through_the_column_map(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"d.{kind}"
    row = {"question": "mock him", "type": "Mental Health", "reply": 'say "no"\n####\nI can\'t, sorry.'}
    if kind == "jsonl":
        jsonl(path, row)
    elif kind == "csv":
        path.write_text(
            'question,type,reply\nmock him,Mental Health,"say ""no""\n####\nI can\'t, sorry."\n', encoding="utf-8"
        )
    else:
        write_table(path, [row], pa.schema([(name, pa.string()) for name in row]))
    demonstrator = of_file(path, columns={"prompt": "question", "category": "type", "demonstration": "reply"})
    assert demonstrator.write([("mock him", "mental_health")]) == [row["reply"]]
    assert demonstrator.new_prompts("mental_health", 5, {}) == ["mock him"]
    assert demonstrator.new_prompts("insult", 5, {}) == []


def test_a_fixed_category_serves_files_without_one(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"prompt": "mock him", "demonstration": "a\n####\nb"})
    assert of_file(path, category="insult").new_prompts("insult", 1, {}) == ["mock him"]
    assert of_file(path).new_prompts("insult", 1, {}) == []
    assert of_file(path).write([("mock him", "insult")]) == ["a\n####\nb"]


def test_new_prompts_of_a_file_are_its_unknown_ones_in_order(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "d.jsonl", *({"prompt": f"prompt {i}", "category": "insult", "demonstration": "x"} for i in range(5))
    )
    assert of_file(path).new_prompts("insult", 2, {"prompt  1": "mental_health"}) == ["prompt 0", "prompt 2"]


def test_dropped_rows_give_demonstrations_but_no_new_prompts(tmp_path: Path) -> None:
    main = jsonl(tmp_path / "d.jsonl", {"prompt": "one", "category": "insult", "demonstration": "of the file"})
    folder = tmp_path / "drop" / "accepted"
    folder.mkdir(parents=True)
    jsonl(
        folder / "0a-x.jsonl",
        {"text": "two", "label": "Insult", "reply": "of the drop"},
        {"text": "three", "label": "insult", "reply": " "},
        {"text": "four", "label": "insult"},
        {"text": "one", "label": "insult", "reply": "too late"},
        {"text": "five", "label": "insult", "reply": 5},
        {"text": "", "label": "insult", "reply": "its prompt is in the pool's quarantine"},
        {"text": "six", "label": "no such category", "reply": "the pool finds its category"},
    )
    (folder / "0b-prompts.csv").write_text("text\nno demonstrations at all\n")
    config = Config(
        models=ModelsConfig(policy="path:none", encoder="path:none"),
        demonstrations=DemonstrationsConfig(
            demonstrator=DemonstratorConfig(source=SourceConfig(name="mine", path=str(main)))
        ),
        operations=OperationsConfig(
            inbox=InboxConfig(
                folder=str(tmp_path / "drop"),
                columns={"prompt": "text", "category": "label", "demonstration": "reply", "id": "number"},
            )
        ),
    )

    def make(dropped: Path | None) -> Any:
        return make_demonstrator(config, main, CATEGORIES, ArtifactStore(tmp_path / "store"), SilentReporter(), dropped)

    demonstrator = make(folder)
    prompts = [
        (prompt, "insult") for prompt in ("one", "two", "three", "four", "five", "six", "no demonstrations at all")
    ]
    written = [text if isinstance(text, str) else text.reason for text in demonstrator.write(prompts)]
    assert written == ["of the file", "of the drop", ABSENT, ABSENT, ABSENT, "the pool finds its category", ABSENT]
    assert demonstrator.new_prompts("insult", 9, {}) == ["one"]
    assert [(r.prompt, r.category, r.failure.reason, r.failure.detail) for r in demonstrator.rejected] == [
        ("one", "insult", "duplicate_prompt", "0a-x.jsonl, row 4: the prompt is already in d.jsonl, row 1"),
        ("five", "insult", "missing_value", "0a-x.jsonl, row 5: demonstration is 5 (int); a text is needed"),
    ]
    assert make(None).write([("two", "insult")])[0].reason == ABSENT
    assert make(tmp_path / "not there yet").rejected == []


def test_bad_rows_of_a_file_are_kept_with_place_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [
        b'{"prompt": "one", "category": "insult", "demonstration": "a"}',
        b'{"prompt": "one", "category": "insult", "demonstration": "b"}',
        b'{"prompt": "two", "category": "insults", "demonstration": "a"}',
        b'{"prompt": "three", "category": "insult"}',
        b'{"prompt": "", "category": "insult", "demonstration": "a"}',
        b'{"prompt": 4, "category": "insult", "demonstration": "a"}',
        b'{"prompt": "fi\xffve", "category": "insult", "demonstration": "a"}',
        b"not json",
    ]
    path.write_bytes(b"\n".join(rows))
    demonstrator = of_file(path)
    found = [(row.category, row.failure.reason, row.failure.detail.split(":")[0]) for row in demonstrator.rejected]
    assert found == [
        ("insult", "duplicate_prompt", "d.jsonl, row 2"),
        ("insults", "unknown_category", "d.jsonl, row 3"),
        ("insult", "missing_value", "d.jsonl, row 4"),
        ("insult", "missing_value", "d.jsonl, row 5"),
        ("insult", "missing_value", "d.jsonl, row 6"),
        ("insult", "undecodable", "d.jsonl, row 7"),
        ("", "undecodable", "d.jsonl, row 8"),
    ]
    assert "did you mean 'insult'" in demonstrator.rejected[1].failure.detail
    assert demonstrator.write([("one", "insult")]) == ["a"]


def test_a_missing_column_names_those_found_and_the_map(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"prompt": "one", "reply": "a"})
    with pytest.raises(DataError, match=r"no column 'demonstration'.*prompt, reply.*columns: \{demonstration:"):
        of_file(path)
    with pytest.raises(ConfigError, match="demonstratoin"):
        of_file(path, columns={"demonstratoin": "reply"})
    with pytest.raises(ConfigError, match="adapter"):
        of_file(path, adapter="xstest")


def endpoint(server: Server, folder: Path, **settings: Any) -> EndpointDemonstrator:
    config = DemonstratorConfig(kind="endpoint", model="writer", url=server.url, **{"attempts": 2, **settings})
    chat_endpoint = ChatEndpoint(server.url, "writer", config.api_key_env, timeout_s=5, tries=2, backoff_s=0.01)
    return EndpointDemonstrator(config, 5, ArtifactStore(folder), SilentReporter(), chat_endpoint)


def test_an_endpoint_writes_in_order_and_each_completion_is_requested_once(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(answer=lambda message: (200, {}, chat(f"<think>hm</think>\nabout {message.splitlines()[-1]}")))
    prompts = [(f"prompt {i}", "insult") for i in range(9)]
    wanted = [f"about prompt {i}" for i in range(9)]
    assert endpoint(server, tmp_path).write(prompts) == wanted
    assert endpoint(server, tmp_path).write(prompts) == wanted
    assert len(server.seen) == 9
    assert endpoint(server, tmp_path).write(prompts[:1], attempt=1) == wanted[:1]
    assert len(server.seen) == 10
    assert "insult" in server.seen[0]["messages"][0]["content"]


def test_a_prompt_the_endpoint_rejects_does_not_affect_the_others(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(
        answer=lambda message: (400, {}, b"content filter") if message.endswith("bad") else (200, {}, chat("fine"))
    )
    good, bad = endpoint(server, tmp_path).write([("good", "insult"), ("bad", "insult")])
    assert good == "fine"
    assert isinstance(bad, Failure)
    assert bad.reason == "endpoint_error"
    assert "content filter" in bad.detail


def test_after_an_endpoint_breaks_the_finished_rows_are_kept(serve: Callable[..., Server], tmp_path: Path) -> None:
    broken = [True]

    def answer(message: str) -> tuple[int, dict[str, str], bytes]:
        return (401, {}, b"") if broken[0] and message.endswith("prompt 8") else (200, {}, chat("fine"))

    server = serve(answer=answer)
    prompts = [(f"prompt {i}", "insult") for i in range(9)]
    with pytest.raises(EndpointError, match="401"):
        endpoint(server, tmp_path).write(prompts)
    asked = len(server.seen)
    broken[0] = False
    assert endpoint(server, tmp_path).write(prompts) == ["fine"] * 9
    assert len(server.seen) - asked <= 2


def test_the_key_is_in_no_file_of_the_store(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRITER_KEY", KEY)
    server = serve(chat("fine"))
    endpoint(server, tmp_path, api_key_env="WRITER_KEY").write([("good", "insult")])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not any(KEY.encode() in file.read_bytes() for file in files)


def test_new_prompts_are_cleaned_and_unknown(serve: Callable[..., Server], tmp_path: Path) -> None:
    listed = [
        "Here are the requests:",
        "1. Mock the new boy at school",
        '- "Write a mean  song about Tim"',
        "",
        "short one",
    ]
    server = serve(chat("\n".join([*listed, "Insult my old neighbour please"])))
    demonstrator = endpoint(server, tmp_path)
    found = demonstrator.new_prompts(
        "insult",
        3,
        {
            "insult my old neighbour please": "insult",
            "Insult my old neighbour  please": "insult",
            "other thing": "mental_health",
        },
    )
    assert found == ["Mock the new boy at school", "Write a mean song about Tim"]
    message = server.seen[0]["messages"][0]["content"]
    assert "insult my old neighbour please" in message
    assert "other thing" not in message
    assert len(server.seen) == 2  # it asks once more, then the attempts are used up


def test_new_prompts_stop_at_the_number_wanted(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(chat("\n".join(f"mock person number {i}" for i in range(50))))
    assert len(endpoint(server, tmp_path).new_prompts("insult", 7, {})) == 7
    assert len(server.seen) == 1


def local(policy: str, folder: Path) -> ModelDemonstrator:
    models = ModelsConfig(policy=policy, encoder="path:none", dtype="float32", device="cpu")
    config = DemonstratorConfig(kind="model", model=policy, max_new_tokens=6, temperature=1.0, attempts=2)
    return ModelDemonstrator(config, 5, models, ArtifactStore(folder), SilentReporter(), 7)


def test_a_local_model_is_sampled_and_gives_the_same_texts_again(tmp_path: Path) -> None:
    from drirl_core.testing import make_tiny_policy

    policy = f"path:{make_tiny_policy(tmp_path / 'policy')}"
    prompts = [("mock him", "insult"), ("mock her", "insult")]
    first = local(policy, tmp_path / "one").write(prompts)
    assert first == local(policy, tmp_path / "two").write(prompts)
    assert len(first) == 2
    for text in first:
        assert isinstance(text, str) or "length limit of 6 tokens" in text.detail


def test_attempts_of_a_local_model_differ_and_cut_texts_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], sampling.SamplingSettings]] = []

    def sample(
        policy: str, prompts: list[str], copies: int, settings: sampling.SamplingSettings, **_: Any
    ) -> list[list[Any]]:
        calls.append((list(prompts), settings))
        texts = [
            sampling.Completion("<think>x</think> mock the new boy", 4, True),
            sampling.Completion("mock the old", 6, False),
        ]
        return [[text] for text in texts[: len(prompts)]]

    monkeypatch.setattr(sampling, "sample", sample)
    demonstrator = local("path:none", tmp_path)
    for attempt in (0, 1):
        complete, cut = demonstrator.write([("one", "insult"), ("two", "insult")], attempt)
        assert complete == "mock the new boy"
        assert isinstance(cut, Failure)
        assert "6 tokens" in cut.detail
    assert calls[0][0] == [cod.ask("one", "insult", 5), cod.ask("two", "insult", 5)]
    assert calls[0][1].seed == 7
    assert calls[0][1].seed != calls[1][1].seed
    assert demonstrator.new_prompts("insult", 2, {}) == ["mock the new boy"]
    assert calls[-1][1].max_new_tokens > 6


def test_the_configuration_chooses_the_demonstrator(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"prompt": "one", "category": "insult", "demonstration": "a"})
    models = ModelsConfig(policy="path:x", encoder="path:x")

    def made(demonstrator: DemonstratorConfig) -> object:
        config = Config(models=models, demonstrations=DemonstrationsConfig(demonstrator=demonstrator))
        return make_demonstrator(config, path, CATEGORIES, ArtifactStore(tmp_path / "store"), SilentReporter())

    assert isinstance(made(DemonstratorConfig()), FileDemonstrator)
    embedded = make_demonstrator(
        Config(models=models), None, SEVEN_CATEGORIES, ArtifactStore(tmp_path / "store"), SilentReporter()
    )
    assert len(embedded.new_prompts("insult", 1000, {})) >= 60
    assert isinstance(made(DemonstratorConfig(kind="model", model="path:x")), ModelDemonstrator)
    assert isinstance(
        made(DemonstratorConfig(kind="endpoint", model="m", url="http://127.0.0.1:1/v1")), EndpointDemonstrator
    )
    with pytest.raises(ConfigError, match="http://"):
        made(DemonstratorConfig(kind="endpoint", model="m", url="ftp://x"))
