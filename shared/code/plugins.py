"""Predictors of one's own: what a file registers, so that a spec of kind `plugin` can be built where the same file is held.

This module reads no files: `shared.service.plugins` does. A plugin's name and its file's SHA-256 are part of the spec, its text
is part of |f|, and it is never sent to be run. What its predictor computes is its author's word; the digests at CHECK are the
test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt

from shared.code.errors import CodelengthError, PluginError, PluginFailedError
from shared.code.models import PRESETS, Preset
from shared.code.models.base import I64, U32, Coder, Predictor
from shared.code.pretrained import require_pretrained
from shared.code.spec import CodeSpec, PluginModel, PretrainedModel

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A code of one's own. preset: what it is called, its model a `PluginModel`. make: p^(0) of a spec. source: the file."""

    preset: Preset
    make: Callable[[CodeSpec], Predictor]
    source: bytes

    @property
    def name(self) -> str:
        """What people type."""
        return self.preset.name

    @property
    def model(self) -> PluginModel:
        """How specs name it: with the SHA-256 of the file's bytes."""
        assert isinstance(self.preset.model, PluginModel)
        return self.preset.model


PLUGINS: dict[str, Plugin] = {}


def register(plugin: Plugin) -> None:
    """Make a plugin a code, beside the presets. Raises `PluginError`, and changes nothing, if it cannot be one."""
    if plugin.name in PRESETS and plugin.name not in PLUGINS:
        raise PluginError(plugin.name, "a preset has this name; choose another")
    if plugin.name in PLUGINS and PLUGINS[plugin.name].model.source != plugin.model.source:
        raise PluginError(plugin.name, "two files define it; choose another name in one of them")
    PLUGINS[plugin.name] = plugin
    PRESETS[plugin.name] = plugin.preset


def require(spec: CodeSpec, called: str = "") -> None:
    """Raise `PluginError` or `PretrainedError` if the spec is of files that are not held here, or not of these.

    called: the code's name at the peer, for the error.
    """
    if isinstance(spec.model, PluginModel):
        _find(spec.model)
    if isinstance(spec.model, PretrainedModel):
        require_pretrained(spec, called)


def build_plugin(spec: CodeSpec) -> Predictor:
    """A fresh predictor of a plugin's spec. Raises `PluginError`, or `PluginFailedError` where it raises."""
    assert isinstance(spec.model, PluginModel)
    return _Guarded(_find(spec.model), spec)


def _find(model: PluginModel) -> Plugin:
    found = PLUGINS.get(model.name)
    if found is None:
        raise PluginError(
            model.name, f"it is not held here (source {model.source[:16]}…); start both sides with --plugin and the same file"
        )
    if found.model != model:
        ours, theirs = found.model.source[:16], model.source[:16]
        raise PluginError(model.name, f"the file here has the source {ours}…, the code names {theirs}…; both need the same file")
    return found


class _Guarded(Predictor):
    """A plugin's predictor, whose errors are named: the worker that runs it survives them."""

    def __init__(self, plugin: Plugin, spec: CodeSpec) -> None:
        self._name = plugin.name
        self._inner = self._guard(lambda: plugin.make(spec))
        if not isinstance(self._inner, Predictor):
            raise PluginFailedError(self._name, f"it made a {type(self._inner).__name__}, not a Predictor")
        self.max_decisions = self._guard(lambda: int(self._inner.max_decisions))

    def _guard(self, work: Callable[[], R]) -> R:
        try:
            return work()
        except CodelengthError:
            raise
        except Exception as error:  # noqa: BLE001 - somebody else's code: anything
            trace, line = error.__traceback__, 0
            while trace is not None:
                if "codelength_plugin" in trace.tb_frame.f_globals.get("__name__", ""):
                    line = trace.tb_lineno
                trace = trace.tb_next
            place = f" in line {line} of its file" if line else ""
            raise PluginFailedError(self._name, f"{type(error).__name__}: {str(error)[:300]}{place}") from None

    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        self._inner.steps = self.steps
        end: object = self._guard(lambda: self._inner._code(tokens, lengths, start, coder, costs))  # noqa: SLF001 - of the same class
        if not isinstance(end, int) or not start <= end <= len(tokens):
            raise PluginFailedError(self._name, f"its _code returned {end!r}, not a row from {start} to {len(tokens)}")
        return end

    def freeze(self) -> None:
        """Fix p^(k)."""
        super().freeze()
        self._guard(self._inner.freeze)

    @property
    def frequencies(self) -> I64 | None:
        """The frequencies of the token coded last, if the plugin tells them."""
        return self._inner.frequencies

    def notes(self) -> list[str]:
        """What the plugin has to tell."""
        return self._guard(self._inner.notes)

    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        return self._guard(self._inner._arrays)  # noqa: SLF001 - of the same class

    def _assign(self, saved: Mapping[str, npt.NDArray[Any]]) -> None:
        self._guard(lambda: self._inner._assign(saved))  # noqa: SLF001 - of the same class
