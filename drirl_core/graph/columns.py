"""What the columns of the assets' tables mean, for names that mean the same in every table."""

from collections.abc import Mapping

MEANINGS: Mapping[str, str] = {
    "prompt_id": "identifies the prompt whatever its spacing: sixteen hexadecimal digits of a hash",
    "prompt": "what the user asks",
    "category": "harm category, or helpful",
    "source": "where the row came from",
    "licence": "licence of that source",
    "labelled_by": "who named the category: the source, or the router",
    "router_confidence": "calibrated probability of the router's category, 0 to 1; empty where the source named it",
    "group_id": "prompts that are near-duplicates share it; a group is never divided between train and test",
    "demonstration": "expert answer with its draft of reasons (Chain-of-Draft)",
    "answer": "what is scored: the reply without its draft",
    "kind": "of a harmless prompt: general, or look_alike of an unsafe one",
    "row_id": "the row's own id in its source; empty where it has none",
    "style": "how the prompt is written, in its source's word: a register, a length, typos; or empty",
    "twin_of": "of a harmless prompt: prompt_id of the unsafe one it is a minimal edit of, in the same split",
    "split": "train, validation, or test; training sees the first alone",
    "origin": "how the row came into the data set: pool, fill_up, or resampled",
    "sample": "number of the reply among those to the same prompt",
    "completion": "the reply as it was generated",
    "tokens": "length of the reply in tokens",
    "finished": "whether the reply ended by itself rather than at the length limit",
    "reward": "reward of the category's model, normalised over its training pool",
    "similarity": "W: likeness of the completions to the demonstration, mean of best cosines over sub-sentences",
    "delta": "data hardness 1 - W",
    "alpha_d": "alphaD: data hardness against the category's mean, around 1",
    "gap": "reward of the demonstration minus mean reward of the completions",
    "kept": "whether the gap counts for alphaM; outliers do not",
    "alpha_m": "alphaM: responsiveness of the model in this category, around 1",
    "alpha": (
        "alphaD * alphaM as `hardness.combine` says: the factor on the advantage, before its batch mean is divided out"
    ),
    "suite": "benchmark suite",
    "group": "part of the suite: unsafe prompts, safe look-alikes, or helpful questions",
    "pair": "what links an unsafe prompt and its safe twin; empty for a prompt without one",
    "score": "refusal score: higher for a likelier refusal; empty where none was computed",
    "classifier": "floor (a bag of words of the training prompts) or ceiling (a linear probe of the base model)",
    "refused": "whether its score is above its threshold",
    "reply": "the policy's greedy reply, of best_of_n its chosen one; it begins with the prefill of the suite, if any",
    "label": "what the judge says of the reply, without a prefill",
    "correct": "whether a question with a known answer was answered right; empty elsewhere",
}


def meanings(*names: str) -> dict[str, str]:
    """Return the meanings of some columns.

    Args:
        names: the columns of a table, in its order.

    Raises:
        KeyError: a name has no meaning yet.
    """
    return {name: MEANINGS[name] for name in names}
