"""The trace: a digest of every operation's outputs, and the first place at which two recordings part.

`Trace` records torch operations, so the `reference` kernels in full detail. `watched` records whole kernels, of `fused` or
`reference` alike, so that the two can be compared, or one of them on two machines: a recording is a list of `Entry`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import isroutine
from itertools import zip_longest
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_UNSEEN = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "full")
"""Whatever lay in memory, and constants: those that kernels keep are made only once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation: which, its name, and a digest of what it wrote, 16 hexadecimal digits."""

    index: int
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Difference:
    """The first operation at which two recordings differ; None for one that ended."""

    index: int
    ours: Entry | None
    theirs: Entry | None

    def __str__(self) -> str:
        if self.ours and self.theirs and self.ours.name == self.theirs.name:
            return f"operation {self.index}, {self.ours.name}, gave {self.ours.digest} here and {self.theirs.digest} there"
        here, there = (entry.name if entry else "nothing" for entry in (self.ours, self.theirs))
        return f"operation {self.index} was {here} here and {there} there"


def digest(values: Any) -> str:
    """Digest of all arrays and numbers in `values`: types, shapes and contents, −0 counted as 0."""
    state = hashlib.sha256()
    _feed(state, values)
    return state.hexdigest()[:16]


def _feed(state: Any, values: Any) -> None:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy() if values.dim() else values.item() + 0  # −0 becomes 0
    if isinstance(values, (list, tuple)):
        for value in values:
            _feed(state, value)
    elif isinstance(values, np.ndarray):
        canonical = np.where(values == 0, np.zeros((), values.dtype), values)
        little = np.ascontiguousarray(canonical, dtype=values.dtype.newbyteorder("<"))
        state.update(f"{little.dtype.str} {values.shape}".encode())
        state.update(little.tobytes())
    else:
        state.update(repr(values).encode())


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, records every torch operation of this thread in `entries`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: list[Entry] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in _UNSEEN:
            self.entries.append(Entry(len(self.entries), str(func).removeprefix("aten."), digest(out)))
        return out


def watched(kernels: ModuleType, entries: list[Entry]) -> ModuleType:
    """The same kernels, each call of which appends an entry: the digest of its result and of all its arrays as it left them."""

    def watch(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(kernel)
        def call(*args: Any) -> Any:
            out = kernel(*args)
            arrays = [x for x in args if isinstance(x, (np.ndarray, Tensor)) and x.ndim]
            entries.append(Entry(len(entries), name, digest([out, *arrays])))
            return out

        return call

    module = ModuleType(f"{kernels.__name__}, watched")
    for name, kernel in vars(kernels).items():
        if (isroutine(kernel) or hasattr(kernel, "py_func")) and not name.startswith("_"):
            setattr(module, name, watch(name, kernel))
    for name in ("Stage", "recorder"):  # these compute nothing
        if hasattr(kernels, name):
            setattr(module, name, getattr(kernels, name))
    if hasattr(kernels, "twin"):
        module.twin = lambda further: watched(kernels.twin(further), entries)  # type: ignore[attr-defined]
    return module


def first_difference(ours: Sequence[Entry], theirs: Sequence[Entry]) -> Difference | None:
    """Where two recordings part; None if nowhere."""
    for index, (one, other) in enumerate(zip_longest(ours, theirs)):
        if one != other:
            return Difference(index, one, other)
    return None
