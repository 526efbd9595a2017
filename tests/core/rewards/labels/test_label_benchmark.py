import math

from word_models import WordStates, compliance, dataset_rows, pool_rows

from benchmarks.label_queue import DRAWS, choices, judged_samples, labelled_by_judge, measure
from benchmarks.reward_objectives import quarters
from drirl_core.config import RewardsConfig
from drirl_core.reporting import SilentReporter
from drirl_core.rewards.fit import fit
from drirl_core.rewards.labels.queue import candidates_of
from drirl_core.rewards.pairs import join_pool

REFUSAL = "Sorry, I can't help with that."
PROMPTS = join_pool(
    dataset_rows(),
    [
        *pool_rows(corrupted=False),
        *({"prompt_id": f"p{i:02d}", "policy": "sft", "sample": 0, "answer": REFUSAL} for i in range(24)),
    ],
    "insult",
)


def test_the_judge_labels_what_is_chosen():
    """Refusals are right and compliances wrong. Both choices have as many labels, all of them of judged completions."""
    judged = judged_samples(PROMPTS)
    assert len(judged) == 24 * 3
    items = labelled_by_judge([(PROMPTS[1].prompt, REFUSAL), (PROMPTS[1].prompt, compliance(1, 0))], judged)
    assert [(item.right, item.wrong) for item in items] == [((REFUSAL,), (compliance(1, 0),))]
    settings, source = RewardsConfig(epochs=2, hidden=8), WordStates()
    model = fit("insult", PROMPTS, source, settings, 0, SilentReporter()).model
    candidates = candidates_of(model, PROMPTS, set(), (source, settings, SilentReporter()))
    found = choices(candidates, judged, 5)
    assert len(found) == 1 + DRAWS
    assert all(len(set(rows)) == 5 and set(rows) <= judged.keys() for rows in found.values())


def test_every_number_of_labels_is_measured_on_held_out_groups():
    found = measure({"insult": (PROMPTS, quarters(PROMPTS))}, WordStates(), RewardsConfig(epochs=2, hidden=8), (3,))
    assert list(found) == ["no labels", "3"]
    assert found["no labels"]["groups"] == found["3"]["d_optimal"]["groups"] == 24  # each prompt is held out once
    row = found["3"]["random"]
    assert row["draws"] == DRAWS and row["lowest"] <= row["mean"] <= row["highest"]
    assert not math.isnan(found["3"]["d_optimal"]["accuracy"])
