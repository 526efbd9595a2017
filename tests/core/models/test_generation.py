"""Generation settings in a model's directory decide nothing: pools, greedy replies, rollouts and saved checkpoints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.policy.training import save_merged
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import RecordingReporter

INHERITED: dict[str, Any] = {
    "do_sample": True,
    "repetition_penalty": 1.1,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
}
SIBLINGS: list[dict[str, Any]] = [
    INHERITED,
    {"no_repeat_ngram_size": 2},
    {"num_beams": 3},
    {"suppress_tokens": list(range(100))},
    {"begin_suppress_tokens": list(range(150))},
    {"forced_eos_token_id": 65},
    {"forced_bos_token_id": 65},
    {"stop_strings": ["a", "e"]},
    {"guidance_scale": 3.0},
    {"min_new_tokens": 6},
    {"min_length": 100},
    {"bad_words_ids": [[101], [102]]},
    {"sequence_bias": [[[101], -50.0]]},
    {"cache_implementation": "static"},
    {"prefill_chunk_size": 2},
    {"exponential_decay_length_penalty": [1, 2.0]},
    {"renormalize_logits": True, "typical_p": 0.5, "min_p": 0.4},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"prompt_lookup_num_tokens": 3},
    {"num_return_sequences": 2},
    {"max_time": 0.0},
    {"use_cache": False},
]
PROMPTS = ["Hi", "How do I bake bread?"]


def give(folder: Path, settings: dict[str, Any]) -> Path:
    file = folder / "generation_config.json"
    own = {name: value for name, value in json.loads(file.read_text()).items() if name.endswith("_token_id")}
    file.write_text(json.dumps({**own, **settings}))
    return folder


def draw(policy: Policy, models: ModelsConfig, folder: Path, temperature: float) -> list[Any]:
    how = SamplingSettings(8, temperature, 4)
    store = ArtifactStore(folder)
    return sample(policy, PROMPTS, 1, how, models=models, store=store, reporter=SilentReporter())


@pytest.mark.parametrize("inherited", SIBLINGS, ids=lambda found: "-".join(found))
def test_completions_do_not_depend_on_generation_settings(
    tiny_policy: Path, copy: Path, settings: ModelsConfig, tmp_path: Path, inherited: dict[str, Any]
) -> None:
    plain, other = load_policy(tiny_policy, settings), load_policy(give(copy, inherited), settings)
    for temperature in (0.0, 1.0):
        # Another key, so another store: only the settings differ, not the seeds.
        same = dataclasses.replace(other, key=plain.key)
        assert draw(same, settings, tmp_path / f"a{temperature}", temperature) == draw(
            plain, settings, tmp_path / f"b{temperature}", temperature
        )


@pytest.mark.parametrize("inherited", SIBLINGS, ids=lambda found: "-".join(found))
def test_a_bare_generate_inherits_nothing(
    tiny_policy: Path, copy: Path, settings: ModelsConfig, inherited: dict[str, Any]
) -> None:
    """TRL's rollouts give `generate` settings that leave most of them open."""
    from transformers import GenerationConfig

    found = []
    for folder in (tiny_policy, give(copy, inherited)):
        policy = load_policy(folder, settings)
        tokens = policy.tokenizer("Hello there", return_tensors="pt")
        how = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=260, disable_compile=True)
        found.append(policy.model.generate(**tokens, generation_config=how))
    assert torch.equal(*found)


def test_special_tokens_are_kept_all_end_tokens_among_them(copy: Path, settings: ModelsConfig) -> None:
    own = json.loads((copy / "generation_config.json").read_text())
    policy = load_policy(
        give(copy, {**INHERITED, "eos_token_id": [own["eos_token_id"], 257], "bos_token_id": 258}), settings
    )
    assert policy.model.generation_config.to_diff_dict().keys() <= {
        "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version",
    }  # fmt: skip
    assert policy.model.generation_config.eos_token_id == [policy.tokenizer.eos_token_id, 257]
    assert policy.model.generation_config.bos_token_id == 258
    ending = policy.model.get_output_embeddings()
    ending.register_forward_hook(
        lambda _, __, logits: torch.zeros_like(logits).index_fill(-1, torch.tensor([257]), 9.0)
    )
    how = SamplingSettings(5, 0.0, 4)
    (((completion,),)) = sample(
        policy, ["Hi"], 1, how, models=settings, store=ArtifactStore(copy / "s"), reporter=SilentReporter()
    )
    assert (completion.tokens, completion.finished) == (1, True)


def test_what_is_not_used_is_logged_once(copy: Path, settings: ModelsConfig, store: ArtifactStore) -> None:
    give(copy, INHERITED)
    reporter = RecordingReporter()
    for prompt in ("one", "two"):
        sample(copy, [prompt], 1, SamplingSettings(2, 0.0, 1), models=settings, store=store, reporter=reporter)
    said = [line for line in reporter.lines if "are not used" in line]
    assert len(said) == 1
    assert "repetition_penalty=1.1" in said[0]
    assert "temperature=0.7" in said[0]
    assert load_policy(copy, settings).notes == tuple(said)


def test_a_clean_directory_gives_no_note(tiny_policy: Path, settings: ModelsConfig) -> None:
    assert load_policy(tiny_policy, settings).notes == ()


def test_saved_checkpoints_carry_the_clean_settings(copy: Path, settings: ModelsConfig, tmp_path: Path) -> None:
    policy = load_policy(give(copy, {**INHERITED, "stop_strings": ["x"]}), settings)
    save_merged(policy.model, policy, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved.keys() <= {
        "_from_model_config",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "transformers_version",
    }


def test_old_settings_in_the_models_configuration_do_not_act_either(
    tiny_policy: Path, copy: Path, settings: ModelsConfig, tmp_path: Path
) -> None:
    """Old models keep them in config.json, which counts where there is no generation_config.json."""
    file = copy / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "repetition_penalty": 1.9, "do_sample": False}))
    (copy / "generation_config.json").unlink()
    policy, plain = load_policy(copy, settings), load_policy(tiny_policy, settings)
    assert any("(repetition_penalty=1.9)" in note for note in policy.notes)
    same = dataclasses.replace(policy, key=plain.key)
    assert draw(same, settings, tmp_path / "a", 0.0) == draw(plain, settings, tmp_path / "b", 0.0)
    save_merged(policy.model, policy, tmp_path / "out")
    assert "repetition_penalty" not in (tmp_path / "out" / "config.json").read_text()


def test_damaged_generation_settings_are_named(copy: Path, settings: ModelsConfig) -> None:
    (copy / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json is not JSON \(.*\); fetch it again"):
        load_policy(copy, settings)


def test_a_model_without_generation_settings_ends_with_the_tokenizers_token(copy: Path, settings: ModelsConfig) -> None:
    (copy / "generation_config.json").unlink()
    file = copy / "config.json"
    without = {**json.loads(file.read_text()), "eos_token_id": None, "pad_token_id": None}
    file.write_text(json.dumps(without))
    policy = load_policy(copy, settings)
    assert policy.model.generation_config.eos_token_id == policy.tokenizer.eos_token_id
    assert policy.model.generation_config.pad_token_id == policy.tokenizer.pad_token_id
