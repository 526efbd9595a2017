"""The adapter backbone: one adapter and head per category on one frozen policy, each of them saved and learned alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from word_models import compliance, demonstration, joined_pool

from drirl_core.config import RewardsConfig, load_config
from drirl_core.config.reward_adapter import RewardAdapterConfig
from drirl_core.errors import ArtifactError, ConfigError, ModelError
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.token_rows import TokenRow
from drirl_core.rewards import RewardRouter, load_reward_model
from drirl_core.rewards.backbones.adapter import AdapterRewardModel
from drirl_core.rewards.fit import fit
from drirl_core.rewards.labels.items import LabelledItem
from drirl_core.rewards.model import DESCRIPTION_FILE, EMPTY_MARGIN, WEIGHTS_FILE, serving
from drirl_core.rewards.tokens import padded, read_pool
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import RecordingReporter, make_tiny_policy

ADAPTER = RewardAdapterConfig(rank=2, first_layer=0.5, epochs=2, learning_rate=5e-3)
CONFIG = RewardsConfig(backbone="adapter", adapter=ADAPTER)
PROMPTS = [p.prompt for p in joined_pool()]
LOOP = "I will not help. " * 12


def few(category="insult"):
    """Return eight training, four validation and four test prompts."""
    pool = joined_pool(category)
    train = [p for p in pool if p.split == "train"][:8]
    return [*train, *(p for p in pool if p.split != "train")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def reader(tiny_models, folder):
    """Make sources of the tiny policy, each with adapters of its own."""
    return lambda: HiddenStates(tiny_models, ArtifactStore(folder / "store"))


@pytest.fixture(scope="module")
def reporter():
    return RecordingReporter()


@pytest.fixture(scope="module")
def learned(reader, folder, reporter):
    """Directories of two models, `insult` and `privacy`, and what fitting returned."""
    found = {}
    for seed, name in enumerate(("insult", "privacy")):
        result = fit(name, few(name), reader(), CONFIG, seed, reporter)
        (folder / name).mkdir()
        result.model.save(folder / name)
        found[name] = (folder / name, result)
    return found


@pytest.fixture
def models(learned):
    return {name: load_reward_model(place) for name, (place, _) in learned.items()}


def contents(place):
    return {file.name: file.read_bytes() for file in place.iterdir()}


def test_training_puts_demonstrations_of_unseen_prompts_ahead(learned):
    """Accuracy 1 on the validation pairs, and on the prompts of the test split, that no choice was made on."""
    result = learned["insult"][1]
    assert result.curve[result.best_epoch - 1].validation_accuracy == 1.0
    assert result.curve[-1].train_loss < result.curve[0].train_loss
    held = [p for p in joined_pool() if p.split == "test"]
    own = result.model.rewards([p.prompt for p in held], [p.answer for p in held])
    for k in range(2):
        others = [compliance(int(p.prompt_id[1:]), k) for p in held]
        assert (own > result.model.rewards([p.prompt for p in held], others)).all()


def test_the_adapter_itself_learned_and_the_policy_did_not(reader, learned):
    """A new adapter has zeros in its second matrix."""
    weights = load_file(learned["insult"][0] / WEIGHTS_FILE)
    ups = [weight for name, weight in weights.items() if "lora_B" in name]
    assert len(ups) == 7 and all(float(weight.abs().max()) > 0 for weight in ups)
    fresh = reader().policy().model.state_dict()
    kept = learned["insult"][1].model._placed()[0]._base.state_dict()
    for name, weight in fresh.items():
        if name != "lm_head.weight":
            shown = name if name in kept else name.replace(".weight", ".base_layer.weight")
            assert torch.equal(kept[shown], weight), name


def test_only_adapter_and_head_are_saved(learned, tiny_policy):
    place = learned["insult"][0]
    assert set(contents(place)) == {WEIGHTS_FILE, DESCRIPTION_FILE}
    names = set(load_file(place / WEIGHTS_FILE))
    assert {name for name in names if not name.startswith("adapter.")} == {
        "score.weight", "score.bias", "feature_mean", "feature_scale",
    }  # fmt: skip
    assert all(":layers:1:" in name for name in names if name.startswith("adapter."))  # the upper half of two layers


def test_saved_and_loaded_rewards_are_equal(learned, reader, tmp_path):
    texts = [compliance(i, 0) for i in range(24)]
    again = load_reward_model(learned["insult"][0], reader())
    assert again.rewards(PROMPTS, texts).tolist() == learned["insult"][1].model.rewards(PROMPTS, texts).tolist()
    again.save(tmp_path)
    assert contents(tmp_path) == contents(learned["insult"][0])


def test_a_mixed_batch_equals_its_rows_one_by_one(models, reader, learned, tmp_path):
    router = RewardRouter(models, None, reader())
    names = ["insult", "privacy"] * 12
    texts = [compliance(i, i % 2) if i % 3 else demonstration(i) for i in range(24)]
    mixed = router.rewards(PROMPTS, texts, names)
    alone = [router.rewards([row[0]], [row[1]], [row[2]])[0] for row in zip(PROMPTS, texts, names, strict=True)]
    assert np.abs(mixed - np.array(alone)).max() < 1e-6
    swapped = router.rewards(PROMPTS, texts, ["privacy", "insult"] * 12)
    assert np.abs(mixed - swapped).max() > 1e-2
    assert router.layer is None
    for name, model in models.items():  # saved from among others, a model is what it was
        (tmp_path / name).mkdir()
        model.save(tmp_path / name)
        assert contents(tmp_path / name) == contents(learned[name][0])


def test_a_category_retrained_alone_leaves_the_others_as_they_were(models, reader, learned, tmp_path):
    """In the router the other rows keep their rewards, and on the disk the others keep their files."""
    texts, names = [demonstration(i) for i in range(24)], ["insult", "privacy"] * 12
    before = RewardRouter(models, None, reader()).rewards(PROMPTS, texts, names)
    files = contents(learned["insult"][0])
    other = dataclasses.replace(CONFIG, adapter=dataclasses.replace(ADAPTER, rank=3, epochs=1))
    fit("privacy", few("privacy"), reader(), other, 7, RecordingReporter()).model.save(tmp_path)
    assert contents(learned["insult"][0]) == files
    replaced = {"insult": load_reward_model(learned["insult"][0]), "privacy": load_reward_model(tmp_path)}
    after = RewardRouter(replaced, None, reader()).rewards(PROMPTS, texts, names)
    np.testing.assert_allclose(after[::2], before[::2], atol=1e-6)
    assert np.abs(after[1::2] - before[1::2]).min() > 1e-4


def test_gradients_reach_the_own_adapter_and_head_alone(models, reader):
    source = reader()
    RewardRouter(models, None, source).rewards(PROMPTS[:2], PROMPTS[:2], ["insult", "privacy"])  # both are placed
    ids, counts = map(torch.from_numpy, padded(source.tokens(PROMPTS[:3], [demonstration(i) for i in range(3)])))
    models["privacy"](ids, counts).sum().backward()
    assert all(weight.grad is not None for weight in models["privacy"].parameters())
    assert all(weight.grad is None for weight in models["insult"].parameters())
    assert all(weight.grad is None for weight in source.policy().model.parameters())


def test_empty_degenerate_and_drafted_completions(models, reader):
    model = models["insult"]
    model.use(reader())
    answer = demonstration(1)
    loop, echo, empty, drafted, own = model.rewards(
        [PROMPTS[1]] * 5, [LOOP, PROMPTS[1], " ... ", f"asks for harm\nno\n####\n{answer}", answer]
    )
    assert loop == echo < own
    assert empty == pytest.approx(loop - EMPTY_MARGIN)
    assert drafted == pytest.approx(own, abs=1e-6)
    assert model.rewards([], []).shape == (0,)


def test_what_cannot_be_used_is_refused(models, reader, learned, tmp_path, tiny_models):
    place = learned["insult"][0]
    other = make_tiny_policy(tmp_path / "other", seed=5)
    changed = dataclasses.replace(tiny_models, policy=f"path:{other}", cache=str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"is another policy; set models\.policy back"):
        load_reward_model(place, HiddenStates(changed, ArtifactStore(tmp_path / "store")))
    with pytest.raises(ModelError, match="has no policy yet"):
        models["insult"].rewards(["a"], ["b"])
    files = contents(place)

    def damaged(change):
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        change()
        load_reward_model(tmp_path, reader()).rewards(["a"], ["b"])

    weights = load_file(place / WEIGHTS_FILE)
    adapted = next(name for name in weights if name.startswith("adapter."))
    with pytest.raises(ArtifactError, match="damaged or foreign"):
        damaged(lambda: (tmp_path / WEIGHTS_FILE).write_bytes(files[WEIGHTS_FILE][:-100]))
    with pytest.raises(ArtifactError, match="not finite"):
        nan = {**weights, adapted: weights[adapted] * float("nan")}
        damaged(lambda: save_file(nan, tmp_path / WEIGHTS_FILE))
    with pytest.raises(ArtifactError, match=r"does not fit path:.*: 1 weights differ, such as .*lora_A"):
        fewer = {name: weight for name, weight in weights.items() if name != adapted}
        damaged(lambda: save_file(fewer, tmp_path / WEIGHTS_FILE))
    with pytest.raises(ArtifactError, match="damaged or foreign"):
        short = {**weights, "score.weight": weights["score.weight"][:, :7].contiguous()}
        damaged(lambda: save_file(short, tmp_path / WEIGHTS_FILE))
    description = json.loads(files[DESCRIPTION_FILE])
    with pytest.raises(ArtifactError, match="damaged or foreign"):
        short = {**description, "shape": {**description["shape"], "dim": "wide"}}
        damaged(lambda: (tmp_path / DESCRIPTION_FILE).write_text(json.dumps(short)))


def test_layers_that_the_policy_does_not_have_are_refused(reader):
    missing = dataclasses.replace(CONFIG, adapter=dataclasses.replace(ADAPTER, targets=("c_attn",)))
    with pytest.raises(ConfigError, match=r"rewards\.adapter\.targets: c_attn names no layer"):
        fit("insult", few(), reader(), missing, 0, RecordingReporter())
    with pytest.raises(ConfigError, match=r"rewards\.adapter is set, but rewards\.backbone is 'hidden_state'"):
        RewardsConfig(adapter=ADAPTER)
    with pytest.raises(ConfigError, match=r"rewards\.adapter\.rank is 0; at least 1"):
        RewardAdapterConfig(rank=0)


def test_one_model_serves_several_categories_with_one_adapter(models, reader):
    source, joint = reader(), models["insult"]
    both = {name: serving(joint, name) for name in ("insult", "privacy")}
    values = RewardRouter(both, None, source).rewards(PROMPTS[:2], [demonstration(0)] * 2, ["insult", "privacy"])
    assert len(source.adapted._model.peft_config) == 1
    assert values[1] == RewardRouter(both, None, source).rewards(PROMPTS[1:2], [demonstration(0)], ["insult"])[0]


def test_training_says_how_far_it_is(reporter, learned):
    result = learned["insult"][1]
    assert reporter.done[f"insult, epoch {len(result.curve)} of 2: prompts"] == (8, 8)
    assert [step for step, _ in reporter.steps[: len(result.curve)]] == [1, 2]
    assert any("reading 32 rows" in line for line in reporter.lines)


def test_a_step_is_divided_into_pools_that_fit(models, reader):
    """Pools of one prompt stay together, however long they are."""
    pool = read_pool(few()[:4], reader())
    model = models["insult"]
    prompts, ends = (torch.cat([pool.own[1][:, i : i + 1], pool.others[1][..., i]], dim=1) for i in (0, 1))
    sizes = (prompts[:, 0] + (ends - prompts).sum(dim=1)).tolist()
    for most, expected in (
        (1, [[0], [1], [2], [3]]),
        (sizes[0] + sizes[1], [[0, 1], [2], [3]]),
        (9999, [[0, 1, 2, 3]]),
    ):
        model.shape = dataclasses.replace(model.shape, micro_tokens=most)
        parts = [part.tolist() for part in model.parts(pool, torch.arange(4))]
        assert [row for part in parts for row in part] == [0, 1, 2, 3]
        assert parts == expected or (most == sizes[0] + sizes[1] and parts[0] == [0, 1])


@pytest.mark.long
def test_the_size_of_parts_does_not_change_what_is_learned(reader):
    """Without damaged demonstrations, whose floor is the worst reward of their part."""
    prompts = [dataclasses.replace(p, replies=tuple(r for r in p.replies if r.policy == "base")) for p in few()]
    found = []
    for most in (1, 99999):
        own = dataclasses.replace(ADAPTER, epochs=1, micro_tokens=most)
        config = dataclasses.replace(CONFIG, adapter=own)
        found.append(fit("insult", prompts, reader(), config, 0, RecordingReporter()).model)
    texts = [demonstration(i) for i in range(24)]
    np.testing.assert_allclose(found[0].rewards(PROMPTS, texts), found[1].rewards(PROMPTS, texts), atol=1e-3)


def test_tokens_by_hand():
    ids, counts = padded([TokenRow((1, 2), (3,)), TokenRow((4,), ())])
    assert (ids.tolist(), counts.tolist()) == ([[1, 2, 3], [4, 0, 0]], [[2, 3], [1, 1]])


@pytest.mark.long
def test_the_same_seed_gives_the_same_bits(reader, tiny_policy):
    first, second = (fit("insult", few(), reader(), CONFIG, 3, RecordingReporter()).model for _ in range(2))
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert first.normalisation == second.normalisation


@pytest.mark.long
@pytest.mark.parametrize("objective", ["bradley_terry", "linear", "classifier"])
def test_every_objective_learns(reader, objective):
    config = dataclasses.replace(CONFIG, objective=objective)
    result = fit("insult", few(), reader(), config, 0, RecordingReporter())
    assert result.curve[result.best_epoch - 1].validation_accuracy == 1.0


@pytest.mark.long
def test_ensembles_and_labels_go_with_it(reader, tmp_path):
    labels = [
        LabelledItem(p.prompt_id, p.prompt, p.split, (demonstration(2),), (compliance(2, 0),)) for p in few()[6:10]
    ]
    config = dataclasses.replace(CONFIG, ensemble=2, ensemble_penalty=0.5)
    source = reader()
    model = fit("insult", few(), source, config, 0, RecordingReporter(), labels=labels).model
    assert len({member._placed()[1] for member in model.members}) == 2
    texts = [compliance(i, 0) for i in range(24)]
    model.save(tmp_path)
    again = load_reward_model(tmp_path, reader())
    np.testing.assert_allclose(again.rewards(PROMPTS, texts), model.rewards(PROMPTS, texts), atol=1e-6)
    assert model.rewards(PROMPTS[:1], [demonstration(0)])[0] > model.rewards(PROMPTS[:1], [compliance(0, 0)])[0]


@pytest.mark.slow
def test_adapters_on_the_real_policy(tiny_models, tmp_path):
    """Needs the network once. One pass over sixteen prompts orders those of unseen prompts; a mixed batch is routed."""
    root = Path(__file__).parents[3]
    demo = load_config(root / "configs" / "demo.yaml")
    settings = dataclasses.replace(tiny_models, policy=demo.models.policy, cache=str(root / demo.models.cache))
    source = HiddenStates(settings, ArtifactStore(tmp_path / "store"))
    config = RewardsConfig(backbone="adapter", adapter=RewardAdapterConfig(epochs=1))
    result = fit("insult", joined_pool(), source, config, 0, RecordingReporter())
    assert result.curve[0].validation_accuracy > 0.9
    held = [p for p in joined_pool() if p.split == "test"]
    own = result.model.rewards([p.prompt for p in held], [p.answer for p in held])
    others = result.model.rewards([p.prompt for p in held], [compliance(int(p.prompt_id[1:]), 0) for p in held])
    assert (own > others).mean() > 0.9
    result.model.save(tmp_path)
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 5e6
    fresh = AdapterRewardModel.prepare("privacy", (held[:2], held[2:]), source, config, RecordingReporter()).untrained()
    fresh.use(source)
    router = RewardRouter({"insult": result.model, "privacy": fresh}, None, source)
    users, texts = [p.prompt for p in held], [p.answer for p in held]
    mixed = router.rewards(users, texts, ["insult", "privacy"] * (len(held) // 2))
    np.testing.assert_allclose(mixed[::2], own[::2], atol=1e-3)
    np.testing.assert_allclose(mixed[1::2], fresh.rewards(users, texts)[1::2], atol=1e-3)
