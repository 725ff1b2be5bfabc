"""`codelength explain`: what the arithmetic coder does with a text, token by token, in exact numbers.

The interval after t tokens is what the encoder holds after coding just these, whatever the model: it is read from the coder,
not recomputed. Bob's search asks the same encoder where the interval of a candidate token would begin. This needs as many
short encodings as there are questions, so texts are short.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from shared.code.arithmetic import COST_UNITS_PER_BIT
from shared.code.codec import Encoder
from shared.code.spec import CodeSpec

MAX_TOKENS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One step of Bob's search: his code value against the place where the interval of `token` begins."""

    token: int
    boundary: Fraction
    relation: str
    """What the answer says of x_t: ≥ or < `token`; ≤ or > where the code places larger tokens lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One token: [low, high) after it, the bits of the code that this made certain, its cost, and how Bob finds it."""

    token: int
    low: Fraction
    high: Fraction
    certain: str
    cost_bits: float
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All steps; the code's bits; and n log2 m."""

    steps: tuple[Step, ...]
    code: str
    uniform_bits: float


def explain(data: bytes, spec: CodeSpec) -> Explanation:
    """Explain the coding of at most `MAX_TOKENS` octets under a spec for octets."""
    if len(data) > MAX_TOKENS:
        raise ValueError(f"{len(data)} tokens are more than {MAX_TOKENS}")
    spec = spec.model_copy(update={"streams": 1})  # so that tokens are coded in the order in which they are read
    tokens = list(data)
    whole = _encode(spec, tokens)
    costs = whole.costs.tolist()
    bits = whole.finish()
    z = whole.drain()
    value = Fraction(int.from_bytes(z, "big"), 1 << (8 * len(z)))
    steps, certain = [], ""
    for index, token in enumerate(tokens):
        low, high, prefix = _interval(spec, tokens[: index + 1])
        steps.append(
            Step(
                token=token,
                low=low,
                high=high,
                certain=prefix[len(certain) :],
                cost_bits=costs[index] / COST_UNITS_PER_BIT,
                questions=_search(spec, tokens[:index], token, value),
            )
        )
        certain = prefix
    code = f"{int.from_bytes(z, 'big'):0{8 * len(z)}b}"[:bits] if bits else ""
    return Explanation(steps=tuple(steps), code=code, uniform_bits=len(tokens) * math.log2(spec.vocabulary_size))


def _encode(spec: CodeSpec, tokens: list[int]) -> Encoder:
    encoder = Encoder(spec)
    for _ in encoder.encode_block(np.array(tokens, dtype=np.uint32)):
        pass
    return encoder


def _interval(spec: CodeSpec, tokens: list[int]) -> tuple[Fraction, Fraction, str]:
    """[low, high) after these tokens, and the bits that all numbers in it begin with."""
    low, width, scale = _encode(spec, tokens).interval()
    first, last = f"{low:0{scale}b}", f"{low + width - 1:0{scale}b}"
    same = next((place for place in range(scale) if first[place] != last[place]), scale)
    return Fraction(low, 1 << scale), Fraction(low + width, 1 << scale), first[:same]


def _search(spec: CodeSpec, before: list[int], token: int, value: Fraction) -> tuple[Question, ...]:
    """Halve the candidates until one is left. Raises `RuntimeError` if that is another than `token`."""

    def begins(candidate: int) -> Fraction:
        return _interval(spec, [*before, candidate])[0]

    size = spec.vocabulary_size
    rising = begins(0) < begins(size - 1)
    order = range(size) if rising else range(size - 1, -1, -1)
    first, last = 0, size
    questions = []
    while last - first > 1:
        middle = (first + last) // 2
        boundary = begins(order[middle])
        above = value >= boundary
        relation = ("≥" if above else "<") if rising else ("≤" if above else ">")
        questions.append(Question(token=order[middle], boundary=boundary, relation=relation))
        first, last = (middle, last) if above else (first, middle)
    if order[first] != token:
        raise RuntimeError(f"the search found {order[first]}, sent was {token}")
    return tuple(questions)


def as_json(found: Explanation) -> dict[str, Any]:
    """The explanation with exact fractions as `numerator/denominator`."""
    return {
        "tokens": [
            {
                "token": step.token,
                "low": str(step.low),
                "high": str(step.high),
                "certain_bits": step.certain,
                "nll_bits": step.cost_bits,
                "search": [
                    {"token": one.token, "boundary": str(one.boundary), "answer": f"x {one.relation} {one.token}"}
                    for one in step.questions
                ],
            }
            for step in found.steps
        ],
        "code": found.code,
        "z_bits": len(found.code),
        "nll_bits": sum(step.cost_bits for step in found.steps),
        "uniform_bits": found.uniform_bits,
    }


def lines(found: Explanation) -> list[str]:
    """The explanation as text. Intervals are drawn in the part of [0, 1) that was not yet certain."""
    out = ["token   interval [low, high)      −log2 p  certain bits      Bob's search"]
    gone = ""
    for step in found.steps:
        low, high = (_zoom(edge, gone) for edge in (step.low, step.high))
        gone += step.certain
        search = " ".join(f"{one.relation}{one.token}" for one in step.questions)
        label = repr(chr(step.token)) if 32 <= step.token < 127 else f"0x{step.token:02x}"
        out.append(f"{label:<7} [{low:.6f}, {high:.6f})  {step.cost_bits:8.4f}  {step.certain or '–':<17} {search}")
    total = sum(step.cost_bits for step in found.steps)
    out += [
        "",
        f"Σ −log2 p = {total:.2f} bits; the code has {len(found.code)}; spelled out it would be {found.uniform_bits:.0f}.",
        f"z = {found.code or '(no bits at all)'}",
        "",
        "Each line's interval lies in [0, 1) once the bits certain before it are taken off. Bob holds z as a number, and asks",
        "of each half of the vocabulary whether z lies there: the answers, left to right, leave one token.",
    ]
    return out


def _zoom(edge: Fraction, gone: str) -> float:
    return float(edge * (1 << len(gone)) - (int(gone, 2) if gone else 0))
