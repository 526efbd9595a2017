"""The contract of the lean training loop: it may change how fast TRL and PEFT compute, never what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import trl.kernels.chunked_logprob
from trl.trainer.utils import add_fused_lm_head

from drirl_core.config import LoraConfig, ModelsConfig
from drirl_core.models.loading import load_policy
from drirl_core.models.sampling import exact_cpu_sampling
from drirl_core.policy.cpu import adapters_in_model_type, lean_training, small_tiles
from drirl_core.policy.training import peft_config


def adapted(folder: Path, models: ModelsConfig, dtype: torch.dtype = torch.float32) -> Any:
    """Return the tiny policy with adapters that change what it says."""
    model = load_policy(folder, models).model.to(dtype)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    torch.manual_seed(2)
    model = peft.get_peft_model(model, peft_config(LoraConfig(rank=4, alpha=8), 2))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :7] = -100  # a prompt
    labels[2, 10:] = -100  # padding
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_small_tiles_give_the_loss_entropy_and_gradients_of_the_stock_head(
    tiny_policy: Path, tiny_models: ModelsConfig
) -> None:
    stock, lean = adapted(tiny_policy, tiny_models), adapted(tiny_policy, tiny_models)
    expected = stock(**batch(), fused_lm_head=True)
    expected.loss.backward()
    with small_tiles():
        found = lean(**batch(), fused_lm_head=True)
        found.loss.backward()
    torch.testing.assert_close(found.log_probs, expected.log_probs)
    torch.testing.assert_close(found.entropy, expected.entropy)
    assert gradients(lean).keys() == gradients(stock).keys()
    for name, gradient in gradients(stock).items():
        torch.testing.assert_close(gradients(lean)[name], gradient, msg=name)


def test_small_tiles_score_labelled_positions_alone(
    tiny_policy: Path, tiny_models: ModelsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 rows of 5 next-token labels, 2 of them padding, are 13 of 33 positions; fails when TRL scores them all again."""
    rows: list[int] = []
    original = trl.kernels.chunked_logprob._forward_tile

    def counting(tile: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(tile.shape[0])
        return original(tile, *args, **kwargs)

    monkeypatch.setattr(trl.kernels.chunked_logprob, "_forward_tile", counting)
    model = adapted(tiny_policy, tiny_models)
    with small_tiles():
        model(**batch(), fused_lm_head=True)
    assert set(rows) == {13}
    rows.clear()
    model(**batch(), fused_lm_head=True)
    assert set(rows) == {33}


def test_adapters_multiply_in_bfloat16_and_the_gradients_stay_close(
    tiny_policy: Path, tiny_models: ModelsConfig
) -> None:
    stock, lean = (adapted(tiny_policy, tiny_models, torch.bfloat16) for _ in range(2))
    seen: set[torch.dtype] = set()
    for name, module in lean.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    stock(**batch(), fused_lm_head=True).loss.backward()
    with adapters_in_model_type(lean):
        lean(**batch(), fused_lm_head=True).loss.backward()
    assert seen == {torch.bfloat16}
    for name, expected in gradients(stock).items():
        found = gradients(lean)[name]
        assert found.dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
        assert cosine > 0.99, name


def test_everything_is_put_back(tiny_policy: Path, tiny_models: ModelsConfig) -> None:
    model = adapted(tiny_policy, tiny_models, torch.bfloat16)
    forward, tokens = model.get_base_model().forward, trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE
    with pytest.raises(RuntimeError, match="stop"), lean_training(model):
        assert model.get_base_model().forward is not forward
        assert tokens != trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE
        raise RuntimeError("stop")
    assert model.get_base_model().forward == forward
    assert tokens == trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampling_folds_the_adapters_in_and_leaves_every_weight_to_the_bit(
    tiny_policy: Path, tiny_models: ModelsConfig, dtype: torch.dtype
) -> None:
    model = adapted(tiny_policy, tiny_models, dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    attention = model.get_base_model().config._attn_implementation
    ids = batch()["input_ids"]
    folded: list[bool] = []
    model.get_base_model().register_forward_pre_hook(
        lambda module, args: folded.extend(
            m.merged for m in module.modules() if isinstance(m, peft.tuners.lora.LoraLayer)
        )
    )
    with exact_cpu_sampling(model, 1.0, torch.Generator().manual_seed(0), 3):
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=model.generation_config,
            max_new_tokens=3,
        )
    assert folded and all(folded)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.get_base_model().config._attn_implementation == attention
    assert not any(m.merged for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer))
