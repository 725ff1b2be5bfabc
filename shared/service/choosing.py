"""`auto`: Alice tries presets on the first part of D, within a time, and takes the one of which she expects the smallest S_k.

The choice is told by a name, `auto: ngram of 8`, which both sides charge: ⌈log2 8⌉ bits of |f|. Not a code of its own.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.codec import Encoder
from shared.code.models import PRESETS, preset
from shared.code.plugins import PLUGINS
from shared.code.spec import Vocabulary
from shared.code.vocabulary import Tokens
from shared.service.coding import read_blocks
from shared.service.kernels import ready_for
from shared.service.worker import Aborted, Output, Pipe

AUTO: Final = "auto"
PART_TOKENS: Final = 1 << 16
_NAME: Final = re.compile(r"auto: (\S+) of (\d{1,4})")


def choice_name(chosen: str, among: int) -> str:
    """What a choice is called in HELLO and in records."""
    return f"{AUTO}: {chosen} of {among}"


def choice_bits(name: str) -> int:
    """What a code of this name is charged for having been chosen: ⌈log2 of the candidates⌉; 0 where it is no choice."""
    found = _NAME.fullmatch(name)
    return max(0, (int(found[2]) - 1).bit_length()) if found else 0


def candidates(vocabulary: Vocabulary, max_model_bytes: int) -> list[str]:
    """The presets that a service allows, quickest first; plugins are no candidates: Bob may have others."""
    return [name for name in PRESETS if name not in PLUGINS and preset(name, vocabulary).memory_bytes <= max_model_bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseJob:
    """Code the first tokens of `path` with each candidate. f_bits: |f| of each. tokens: n. seconds: for all of them together."""

    vocabulary: Vocabulary
    path: str
    tokens: int
    f_bits: dict[str, int]
    seconds: float

    def run(self, pipe: Pipe) -> None:
        """Do it; the result is a list of `trial`s, in the order tried, and the name chosen."""
        deadline = time.monotonic() + self.seconds
        trials = [self._trial(name, deadline, pipe) for name in self.f_bits]
        finished = [one for one in trials if one["sk_bits"] is not None]
        chosen = min(finished, key=lambda one: one["sk_bits"])["code"] if finished else next(iter(self.f_bits))
        pipe.send(Output(finished=True, result={"trials": trials, "chosen": chosen}))

    def _trial(self, name: str, deadline: float, pipe: Pipe) -> dict[str, Any]:
        """Tokens coded, their bits, and S_k if all of D cost as much a token; None where time ran out before the part's end."""
        started = time.monotonic()
        spec = preset(name, self.vocabulary)
        part = min(self.tokens, PART_TOKENS)
        done, units = 0, 0
        if started < deadline:
            ready_for(spec)
            encoder = Encoder(spec)
            for block in self._blocks(spec.block_tokens, part):
                for segment in encoder.encode_block(block):
                    encoder.drain()
                    done += segment.tokens
                    units += segment.cost_units
                    if pipe.told_to_stop():
                        raise Aborted
                    if time.monotonic() > deadline:
                        break
        bits = units / COST_UNITS_PER_BIT
        whole = done == part and (started < deadline or not part)
        expected = self.f_bits[name] + (bits * self.tokens / part if part else 0.0)
        return {
            "code": name,
            "tokens": done,
            "nll_bits": bits,
            "sk_bits": expected if whole else None,
            "seconds": time.monotonic() - started,
        }

    def _blocks(self, block_tokens: int, part: int) -> list[Tokens]:
        spec = preset("uniform", self.vocabulary).model_copy(update={"block_tokens": min(block_tokens, part)})
        with Path(self.path).open("rb") as file:
            blocks = read_blocks(file.read, spec)
            out: list[Tokens] = []
            while sum(map(len, out)) < part:
                out.append(next(blocks)[: part - sum(map(len, out))])
        return out
