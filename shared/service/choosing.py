"""`auto`: Alice tries presets on the first part of D, within a time, and takes the one of which she expects the smallest S_k.

The choice is told by a name, `auto: ngram of 8`, which both sides charge: ⌈log2 8⌉ bits of |f|. Not a code of its own.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.codec import Encoder
from shared.code.models import PRESETS, preset
from shared.code.spec import Vocabulary
from shared.code.vocabulary import Tokens, to_tokens, token_width
from shared.service.kernels import ready_for
from shared.service.worker import Aborted, Output, Pipe

AUTO: Final = "auto"
PART_TOKENS: Final = 1 << 16
_LOADING_TOKENS: Final = 300
_NAME: Final = re.compile(r"auto: (\S+) of (\d{1,4})")


def choice_name(chosen: str, among: int) -> str:
    """What a choice is called in HELLO and in records."""
    return f"{AUTO}: {chosen} of {among}"


def choice_bits(name: str) -> int:
    """What a code of this name is charged for having been chosen: ⌈log2 of the candidates⌉; 0 where it is no choice."""
    found = _NAME.fullmatch(name)
    return max(0, (int(found[2]) - 1).bit_length()) if found else 0


def candidates(vocabulary: Vocabulary, max_model_bytes: int) -> list[str]:
    """The presets that a service allows, quickest first; none heavy, none of a user's files, which Bob may not have."""
    known = [name for name, one in PRESETS.items() if not one.local and not one.heavy]
    return [name for name in known if preset(name, vocabulary).memory_bytes <= max_model_bytes]


def choose(
    vocabulary: Vocabulary,
    part: Tokens,
    tokens: int,
    f_bits: Mapping[str, int],
    seconds: float,
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, list[dict[str, Any]]]:
    """The preset of which the smallest S_k is expected, and the trials, in the order tried.

    part: D's beginning. tokens: n. f_bits: the candidates, and |f| of each. seconds: for all of them together, to code: that a
    candidate's kernels may have to be compiled first is not counted. A trial: tokens coded, their bits, and S_k if all of D cost
    as much a token, None where time ran out before the part's end. stop: asked after every segment; raises `Aborted` once it
    says so.
    """
    trials: list[dict[str, Any]] = []
    left = seconds
    for name, bits in f_bits.items():
        trials.append(_trial(vocabulary, name, part, tokens, bits, left, stop, clock))
        left -= trials[-1]["seconds"]
    finished = [one for one in trials if one["sk_bits"] is not None]
    chosen = min(finished, key=lambda one: one["sk_bits"])["code"] if finished else next(iter(f_bits))
    return chosen, trials


def _trial(
    vocabulary: Vocabulary,
    name: str,
    part: Tokens,
    tokens: int,
    f_bits: int,
    seconds: float,
    stop: Callable[[], bool],
    clock: Callable[[], float],
) -> dict[str, Any]:
    spec = preset(name, vocabulary)
    done, units, tried = 0, 0, seconds > 0 and len(part) > 0
    if tried:
        ready_for(spec)
        for _ in Encoder(spec).encode_block(part[:_LOADING_TOKENS]):  # compiles its kernels, or loads them
            pass
    started = clock()
    if tried:
        encoder = Encoder(spec)
        for first in range(0, len(part), spec.block_tokens):
            for segment in encoder.encode_block(part[first : first + spec.block_tokens]):
                encoder.drain()
                done += segment.tokens
                units += segment.cost_units
                if stop():
                    raise Aborted
                if clock() > started + seconds:
                    break
            else:
                continue
            break
    bits = units / COST_UNITS_PER_BIT
    whole = done == len(part)
    expected = f_bits + (bits * tokens / len(part) if len(part) else 0.0)
    return {
        "code": name,
        "tokens": done,
        "nll_bits": bits,
        "sk_bits": expected if whole else None,
        "seconds": clock() - started,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseJob:
    """Code the first tokens of `path` with each candidate. f_bits: |f| of each. tokens: n. seconds: for all of them together."""

    vocabulary: Vocabulary
    path: str
    tokens: int
    f_bits: dict[str, int]
    seconds: float

    def run(self, pipe: Pipe) -> None:
        """Do it; the result is the trials of `choose`, and the name chosen."""
        with Path(self.path).open("rb") as file:
            part = to_tokens(file.read(PART_TOKENS * token_width(self.vocabulary)), self.vocabulary)
        chosen, trials = choose(self.vocabulary, part, self.tokens, self.f_bits, self.seconds, stop=pipe.told_to_stop)
        pipe.send(Output(finished=True, result={"trials": trials, "chosen": chosen}))
