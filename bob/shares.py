"""Where the bits went: the cost of D by kinds of token, and its dearest tokens. Read in parts: memory does not depend on n."""

from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.spec import BytesVocabulary, Vocabulary
from shared.code.vocabulary import to_tokens, token_width

_PART_TOKENS: Final = 1 << 20
_DEAREST: Final = 50
_BEFORE: Final = 32
_AFTER: Final = 8


class ClassBits(BaseModel):
    """A class of tokens: how many of D's tokens are of it, and Σ −log2 p over them."""

    name: str
    tokens: int
    nll_bits: float


class DearToken(BaseModel):
    """One of the most expensive tokens: its place, its cost, and the tokens around it; as text where they are octets."""

    position: int
    token: int
    nll_bits: float
    before: list[int]
    after: list[int]
    text_before: str | None
    text: str | None


class Shares(BaseModel):
    """By kind of token, by whether the token had occurred before, and the dearest, most expensive first.

    by_class: of octets, what they are in ASCII; of token ids, how often they occur in D.
    """

    by_class: list[ClassBits]
    by_novelty: list[ClassBits]
    dearest: list[DearToken]


def shares(tokens_path: Path, costs_path: Path, vocabulary: Vocabulary) -> Shares:
    """All of it. tokens_path: canonical bytes; costs_path: uint32 of 2^-24 bit, little endian."""
    size, width = vocabulary.size, token_width(vocabulary)
    counts, units = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    seen, first_units = np.zeros(size, dtype=bool), 0
    dearest: list[tuple[int, int]] = []  # cost, position
    position = 0
    with tokens_path.open("rb") as tokens_file, costs_path.open("rb") as costs_file:
        while data := tokens_file.read(_PART_TOKENS * width):
            tokens = to_tokens(data, vocabulary, position=position)
            costs = np.frombuffer(costs_file.read(4 * len(tokens)), dtype="<u4")
            counts += np.bincount(tokens, minlength=size)
            np.add.at(units, tokens, costs.astype(np.int64))
            values, firsts = np.unique(tokens, return_index=True)
            new = ~seen[values]
            first_units += int(costs[firsts[new]].sum(dtype=np.uint64))
            seen[values] = True
            most = np.argsort(costs, kind="stable")[::-1][:_DEAREST]
            dearest += [(int(costs[place]), position + int(place)) for place in most]
            dearest = sorted(dearest, key=lambda one: (-one[0], one[1]))[:_DEAREST]
            position += len(tokens)
    kinds = int(seen.sum())
    novelty = [
        _class("first occurrence", kinds, first_units),
        _class("seen before", position - kinds, int(units.sum()) - first_units),
    ]
    octets = isinstance(vocabulary, BytesVocabulary)
    groups = _octet_classes() if octets else _frequency_classes(counts)
    by_class = [_class(name, int(counts[among].sum()), int(units[among].sum())) for name, among in groups.items()]
    with tokens_path.open("rb") as file:
        dear = [_dear(file, cost, place, vocabulary) for cost, place in dearest]
    return Shares(by_class=by_class, by_novelty=novelty, dearest=dear)


def _class(name: str, tokens: int, units: int) -> ClassBits:
    return ClassBits(name=name, tokens=tokens, nll_bits=units / COST_UNITS_PER_BIT)


def _octet_classes() -> dict[str, npt.NDArray[np.bool_]]:
    """A mask over the 256 octets for each class; every octet is in one."""
    octet = np.arange(256)
    digit = (octet >= 48) & (octet <= 57)
    upper, lower = (octet >= 65) & (octet <= 90), (octet >= 97) & (octet <= 122)
    line_end = (octet == 10) | (octet == 13)
    punctuation = (octet > 32) & (octet < 127) & ~(digit | upper | lower)
    control = ((octet < 32) & ~line_end) | (octet == 127)
    return {
        "lower case": lower,
        "upper case": upper,
        "digit": digit,
        "space": octet == 32,
        "line end": line_end,
        "punctuation": punctuation,
        "control": control,
        "octet above 127": octet > 127,
    }


def _frequency_classes(counts: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
    return {
        "once": counts == 1,
        "2 to 9 times": (counts >= 2) & (counts < 10),
        "10 to 99 times": (counts >= 10) & (counts < 100),
        "100 times or more": counts >= 100,
    }


def _dear(file: IO[bytes], cost: int, place: int, vocabulary: Vocabulary) -> DearToken:
    width, begin = token_width(vocabulary), max(0, place - _BEFORE)
    file.seek(begin * width)
    around = to_tokens(file.read((place - begin + 1 + _AFTER) * width), vocabulary, position=begin).tolist()
    before, token, after = around[: place - begin], around[place - begin], around[place - begin + 1 :]
    octets = isinstance(vocabulary, BytesVocabulary)
    return DearToken(
        position=place,
        token=token,
        nll_bits=cost / COST_UNITS_PER_BIT,
        before=before,
        after=after,
        text_before=bytes(before).decode("utf-8", "replace") if octets else None,
        text=bytes([token]).decode("utf-8", "replace") if octets else None,
    )
