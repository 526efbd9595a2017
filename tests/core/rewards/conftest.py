import pytest
from word_models import WordEncoder, WordStates, joined_pool

from drirl_core.config import RewardsConfig
from drirl_core.reporting import SilentReporter
from drirl_core.rewards.fit import fit


@pytest.fixture
def encoder():
    return WordEncoder()


@pytest.fixture(scope="session")
def fitted():
    """Two small models learned once: `insult`, and `privacy` on other rows of the same inputs."""
    config = RewardsConfig(backbone="embedding", epochs=40, hidden=8)
    return {
        name: fit(name, joined_pool(name), WordEncoder(), config, seed, SilentReporter())
        for seed, name in enumerate(("insult", "privacy"))
    }


@pytest.fixture(scope="session")
def fitted_hidden():
    """The same two models on hidden states."""
    config = RewardsConfig(epochs=40, hidden=8)
    return {
        name: fit(name, joined_pool(name), WordStates(), config, seed, SilentReporter())
        for seed, name in enumerate(("insult", "privacy"))
    }
