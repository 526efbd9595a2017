"""Training of adapters beside weights that processes hold in parts (drirl_core/models/sharding.py).

transformers' trainer does not change such a model, gives all processes the same adapters, and averages their gradients.
"""

from __future__ import annotations

from typing import Any

from drirl_core.models.sharding import is_sharded


class ShardedWeights:
    """Let one of TRL's trainers, the next class in the order of methods, keep checkpoints beside sharded weights.

    transformers refuses checkpoints that can be resumed, because it does not gather an optimiser's state. That of
    adapters is complete in each process.

    Args:
        **arguments: of the trainer.
    """

    args: Any
    model: Any

    def __init__(self, **arguments: Any) -> None:
        sharded = is_sharded(arguments["model"])
        if sharded:
            arguments["args"].save_only_model = True
        super().__init__(**arguments)
        if sharded:
            self.args.save_only_model = False
