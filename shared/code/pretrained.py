"""Pretrained models that are held here: what stands for their files, so that a spec of kind `pretrained` can be built.

This module reads no files: `shared.service.pretrained` does, and gives what loads the module. A model's name is this side's own;
its files' SHA-256 is part of the spec, and |f| is charged for all of their bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.code.errors import PretrainedError
from shared.code.models import PRESETS, Preset
from shared.code.models.base import Predictor
from shared.code.spec import CodeSpec, PretrainedModel

if TYPE_CHECKING:
    from shared.code.models.pretrained import CausalModel  # torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A model's files. preset: what it is called. positions: the most tokens it can see; None where there is no limit.

    first_token: what stands before the first token. load: a fresh module with its weights. charge: what |f| is charged for the
    files, in bits, measured when called.
    """

    preset: Preset
    positions: int | None
    first_token: int
    load: Callable[[], "CausalModel"]
    charge: Callable[[], int]

    @property
    def name(self) -> str:
        """What people type here."""
        return self.preset.name

    @property
    def model(self) -> PretrainedModel:
        """How specs name it."""
        assert isinstance(self.preset.model, PretrainedModel)
        return self.preset.model


PRETRAINED: dict[str, Pretrained] = {}
"""By the SHA-256 of their files."""


def register_pretrained(found: Pretrained) -> None:
    """Make it a code, beside the presets. Raises `PretrainedError`, and changes nothing, if its name is another code's."""
    known = PRESETS.get(found.name)
    if known is not None and not (isinstance(known.model, PretrainedModel) and known.model.files == found.model.files):
        raise PretrainedError(found.name, "another code has this name; rename the directory")
    PRETRAINED[found.model.files] = found
    PRESETS[found.name] = found.preset


def require_pretrained(spec: CodeSpec, called: str = "") -> Pretrained:
    """What a spec of kind `pretrained` names. Raises `PretrainedError` if it is not held here, or the spec does not fit it.

    called: its name at the peer, for the error.
    """
    model = spec.model
    assert isinstance(model, PretrainedModel)
    found = PRETRAINED.get(model.files)
    if found is None:
        digest = f"{model.files[:16]}…"
        name = f"{called} ({digest})" if called else digest
        raise PretrainedError(name, "it is not held here; start both sides with --pretrained and a directory of the same files")
    wanted, m = found.model, found.preset.vocabulary.size
    for name in ("parameters", "layers", "width"):
        if getattr(model, name) != getattr(wanted, name):
            raise PretrainedError(found.name, f"the code says {name} {getattr(model, name)}, its files {getattr(wanted, name)}")
    if spec.vocabulary_size != m:
        raise PretrainedError(found.name, f"its vocabulary has m = {m:,}, the data m = {spec.vocabulary_size:,}")
    if found.positions is not None and model.context > found.positions:
        raise PretrainedError(found.name, f"a context of {model.context:,} tokens; it has {found.positions:,} positions")
    return found


def build_pretrained(spec: CodeSpec) -> Predictor:
    """A fresh predictor of a pretrained model's spec. Raises `PretrainedError`."""
    from shared.code.models.pretrained import PretrainedPredictor

    found = require_pretrained(spec)
    return PretrainedPredictor(spec, found.load(), name=found.name, first_token=found.first_token)
