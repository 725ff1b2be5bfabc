"""Legs: the parts of a transmission that are each a code of their own, because the models of the one before had diverged (P-20).

Under exact numerics there is one leg, all of D. Both sides count with the rules here, so that they agree without a message more.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Final

from shared.channel.messages import Accept
from shared.code.models import preset
from shared.code.spec import CodeSpec

SAFE_CODE: Final = "ngram"
"""The preset that Alice names in HELLO for native numerics."""
SAFE_BLOCKS: Final = 16
"""Blocks that the safe code carries after the first divergence; after the second it carries all that is left."""
_UNITS_PER_BYTE: Final = 8 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One leg, and what came of D before it.

    block: its first. code: the safe preset, empty for HELLO's spec. rollbacks: divergences so far. nll_units: Σ −log2 p of the
    tokens before it, in units of 2^-24 bit. coded_bytes: of the z from which Bob has them. abandoned_bytes: of the z that
    crossed besides, and was given up.
    """

    block: int = 0
    code: str = ""
    rollbacks: int = 0
    nll_units: int = 0
    coded_bytes: int = 0
    abandoned_bytes: int = 0

    @classmethod
    def of(cls, accept: Accept) -> "Leg":
        """The leg that an ACCEPT tells of."""
        return cls(**{item.name: getattr(accept, item.name) for item in fields(cls)})

    def accept(self, *, records: int, z_bytes: int, runtime: str) -> Accept:
        """The ACCEPT that tells of it, and of what Bob holds of it."""
        return Accept(records=records, z_bytes=z_bytes, runtime=runtime, **asdict(self))

    @property
    def end(self) -> int | None:
        """The block before which HELLO's spec is tried once more; None where the leg goes to the end of D."""
        return self.block + SAFE_BLOCKS if self.code and self.rollbacks == 1 else None

    def rolled_back(self, block: int, nll_units: int, z_bytes: int, safe: str) -> "Leg":
        """The leg after a divergence in this one. z_bytes: all of this leg's z that crossed; safe: the preset that HELLO names.

        Of that z the tokens agreed on take as much as they cost, in whole bytes: the code has no boundary there.
        """
        used = min(z_bytes, -(-(nll_units - self.nll_units) // _UNITS_PER_BYTE))
        return Leg(
            block=block,
            code=safe,
            rollbacks=self.rollbacks + 1,
            nll_units=nll_units,
            coded_bytes=self.coded_bytes + used,
            abandoned_bytes=self.abandoned_bytes + z_bytes - used,
        )

    def ended(self, block: int, nll_units: int, z_bytes: int) -> "Leg":
        """The leg after this one has come to its end. z_bytes: all of this leg's z."""
        return replace(self, block=block, code="", nll_units=nll_units, coded_bytes=self.coded_bytes + z_bytes)


def safe_code(name: str, spec: CodeSpec) -> CodeSpec:
    """The safe code of a transmission: the preset over the same vocabulary, in blocks of the same length.

    Raises `UnknownPresetError`.
    """
    return preset(name, spec.vocabulary).model_copy(update={"block_tokens": spec.block_tokens})
