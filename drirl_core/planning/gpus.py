"""Graphics cards: memory, arithmetic and bandwidth, and how much of each the code can use."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drirl_core.errors import ConfigError, nearest

GIB = 1024**3
_MIB = 1024**2


@dataclass(frozen=True)
class Gpu:
    """A graphics card.

    Args:
        name: how a user names it.
        memory: bytes, as the driver shows them.
        flops: bfloat16 operations per second with dense matrices and sums in float32; 0 where it is not known.
        bandwidth: bytes per second between memory and chip; 0 where it is not known.
        count: how many there are.
    """

    name: str
    memory: int
    flops: float = 0.0
    bandwidth: float = 0.0
    count: int = 1

    @property
    def usable(self) -> int:
        """Bytes that tensors may take; the rest is for the CUDA context, the libraries and gaps between tensors."""
        return int(self.memory * USABLE)

    @property
    def timed(self) -> bool:
        """Whether times can be computed."""
        return self.flops > 0 and self.bandwidth > 0

    def __str__(self) -> str:
        """Say it in a few words."""
        several = f"{self.count} x " if self.count > 1 else ""
        return f"{several}{self.name} ({self.memory / GIB:.1f} GiB)"


USABLE = 0.92
"""Share of the memory that is planned with. The context and the libraries take about 1 GiB, and the allocator keeps
gaps between tensors whose lengths change from batch to batch."""

# Memory: the total that nvidia-smi shows, which is a little less than the number in the name. Arithmetic and bandwidth:
# the manufacturer's data sheets; where these give bfloat16 with sparsity alone, half of it.
GPUS = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5: 1,979 TFLOPS with sparsity, 3.35 TB/s
    "h100": Gpu("h100", 81559 * _MIB, 989e12, 3.35e12),
    # the same data sheet, PCIe: 1,513 TFLOPS with sparsity, 2 TB/s
    "h100-pcie": Gpu("h100-pcie", 81559 * _MIB, 756e12, 2.0e12),
    # NVIDIA H200 data sheet, SXM: 1,979 TFLOPS with sparsity, 4.8 TB/s
    "h200": Gpu("h200", 143771 * _MIB, 989e12, 4.8e12),
    # NVIDIA Blackwell data sheet, HGX B200: 4.5 PFLOPS per card with sparsity, 7.7 TB/s
    "b200": Gpu("b200", 183359 * _MIB, 2250e12, 7.7e12),
    # NVIDIA A100 data sheet, SXM: 312 TFLOPS, 1,555 GB/s (40 GB) and 2,039 GB/s (80 GB)
    "a100-40": Gpu("a100-40", 40960 * _MIB, 312e12, 1.555e12),
    "a100-80": Gpu("a100-80", 81920 * _MIB, 312e12, 2.039e12),
    # NVIDIA A10 data sheet: 125 TFLOPS, 600 GB/s
    "a10": Gpu("a10", 23028 * _MIB, 125e12, 600e9),
    # NVIDIA L4 data sheet: 242 TFLOPS with sparsity, 300 GB/s
    "l4": Gpu("l4", 23034 * _MIB, 121e12, 300e9),
    # NVIDIA L40S data sheet: 362 TFLOPS, 864 GB/s
    "l40s": Gpu("l40s", 46068 * _MIB, 362e12, 864e9),
    # NVIDIA Ada architecture white paper, table of the RTX 4090: 165.2 TFLOPS, 1,008 GB/s
    "rtx4090": Gpu("rtx4090", 24564 * _MIB, 165.2e12, 1.008e12),
    # NVIDIA Ampere GA102 white paper, table of the RTX 3090: 71 TFLOPS, 936 GB/s
    "rtx3090": Gpu("rtx3090", 24576 * _MIB, 71e12, 936e9),
    # NVIDIA RTX A6000 data sheet and the GA102 white paper: 154.8 TFLOPS, 768 GB/s
    "a6000": Gpu("a6000", 49140 * _MIB, 154.8e12, 768e9),
}
"""Cards by name."""
_OTHER_NAMES = {"a100": "a100-80", "h100-80": "h100", "h200-141": "h200", "4090": "rtx4090", "3090": "rtx3090"}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>gib|gb)")


def gpu_named(text: str) -> Gpu | None:
    """Return the card that a user named.

    Args:
        text: `NAME`, `NAME:COUNT`, a size such as `24GiB` or `24GB` with or without a count, or `cpu`.

    Returns:
        The card; None for `cpu`.

    Raises:
        ConfigError: the name is unknown, or the count is no number from 1.
    """
    name, colon, number = text.strip().lower().partition(":")
    if colon and not (number.isdigit() and int(number) >= 1):
        raise ConfigError(f"--gpu {text!r}: after the colon comes how many there are, such as h100:8")
    if name == "cpu":
        return None
    size = _SIZE.fullmatch(name)
    found = GPUS.get(_OTHER_NAMES.get(name, name))
    if size:
        unit = GIB if size["unit"] == "gib" else 10**9
        found = Gpu(name.replace("gib", " GiB").replace("gb", " GB"), int(float(size["number"]) * unit))
    if found is None or found.memory <= 0:
        raise ConfigError(f"--gpu {text!r} is no known card; {nearest(name, GPUS)}; or give a size, such as 24GiB")
    return Gpu(found.name, found.memory, found.flops, found.bandwidth, int(number) if colon else 1)
