"""Settings that make a stage fit: the least change, in the order of what changes no result."""

import pytest

from drirl_core.config import Config
from drirl_core.errors import ConfigError
from drirl_core.planning.fitting import changes_that_fit, smaller_values, with_changes
from drirl_core.testing import tiny_config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(tmp_path_factory.mktemp("fitting"))  # 4 prompts x 2 completions per step


def test_nested_settings_are_changed(config: Config) -> None:
    changed = with_changes(config, {"policy.lora.rank": 3, "completions.batch_size": 5})
    assert (changed.policy.lora.rank, changed.completions.batch_size, config.policy.lora.rank) == (3, 5, 2)


def test_a_change_that_contradicts_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="micro_batch"):
        with_changes(config, {"policy.micro_batch": 3})


def test_a_micro_batch_divides_the_batch(config: Config) -> None:
    assert smaller_values(config, "policy.micro_batch") == [4, 2, 1]
    assert smaller_values(with_changes(config, {"policy.micro_batch": 2}), "policy.micro_batch") == [1]


def test_smaller_values_fall_from_the_present_one(config: Config) -> None:
    assert smaller_values(config, "completions.batch_size")[:3] == [60, 56, 52]
    assert smaller_values(config, "completions.batch_size")[-1] == 1
    assert smaller_values(config, "policy.lora.rank") == []
    assert smaller_values(with_changes(config, {"policy.lora.rank": 0}), "policy.lora.rank") == [16]
    assert smaller_values(config, "policy.validation_prompts") == []


def test_one_setting_is_enough_where_it_is(config: Config) -> None:
    found = changes_that_fit(
        config, ("policy.micro_batch", "completions.batch_size"), lambda one: one.completions.batch_size <= 50
    )
    assert found == {"completions.batch_size": 48}


def test_two_settings_together(config: Config) -> None:
    def fits(one: Config) -> bool:
        return (one.policy.micro_batch or 8) + one.policy.prompts_per_step <= 3

    found = changes_that_fit(
        config, ("policy.micro_batch", "policy.validation_prompts", "policy.prompts_per_step"), fits
    )
    assert found == {"policy.micro_batch": 1, "policy.prompts_per_step": 2}


def test_nothing_helps(config: Config) -> None:
    assert changes_that_fit(config, ("policy.micro_batch", "completions.batch_size"), lambda one: False) is None
