"""Which kernels a network runs on: a property of the machine, like the back end of `products`, not of f.

`fused` runs on the CPU; `reference`, in torch operations, on any device, and is imported only when chosen.
"""

from types import ModuleType
from typing import Final

from shared.code.exact import fused

NAMES: Final = ("fused", "reference")

_chosen: ModuleType = fused


def choose(name: str, device: str = "cpu") -> None:
    """Networks built from now on, in this process, use these kernels. Raises `ValueError` for an unknown or impossible choice."""
    global _chosen  # noqa: PLW0603 - a property of the machine
    if name not in NAMES or (name == "fused" and device != "cpu"):
        raise ValueError(f"there are no {name} kernels for {device}")
    if name == "fused":
        _chosen = fused
        return
    from shared.code.exact import reference

    reference.place(device)
    _chosen = reference


def chosen() -> ModuleType:
    """The kernels in use."""
    return _chosen
