"""Settings of reward functions of the user's own."""

from __future__ import annotations

from dataclasses import dataclass

from drirl_core.config.reading import require


@dataclass(frozen=True)
class OwnRewardConfig:
    """A function of yours that rewards completions."""

    function: str
    """Dotted name of the function, `my_module.my_function` or `my_package.my_module.my_function`. It is called with
    three lists of B texts, prompts, completions and categories (`helpful` for harmless prompts), and returns B numbers.
    Only the file that holds it counts towards the version of the policy, not what that file imports; it imports what it
    needs at its top."""
    weight: float = 1.0
    """What its values are multiplied by before they are added to the reward."""
    folder: str = "."
    """Directory that its module or package is in, before installed ones; relative to the directory of the file of
    settings."""

    def __post_init__(self) -> None:
        names = self.function.split(".")
        require(
            len(names) >= 2 and all(name.isidentifier() for name in names),
            f"policy.own_rewards: the function is {self.function!r}; give module and function with a dot between them, "
            "such as my_module.my_function",
        )
        require(
            self.weight != 0,
            f"policy.own_rewards: the weight of {self.function} is 0; take it out, or give it a weight",
        )
