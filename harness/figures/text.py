"""What Bob decoded as HTML: every token coloured by the bits it cost, what has not been checked yet greyed.

The scale has nine steps of rising contrast, of the colour map cividis, which people see alike whatever colours they see. A
character of several octets is one, with the costs of its octets added.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

STEPS: Final = (0.1, 0.3, 0.7, 1.5, 3.0, 5.0, 8.0, 12.0)
"""Bits at which the next colour begins."""


def step(bits: float) -> int:
    """The colour of a cost: 0 … 8."""
    return sum(bits >= limit for limit in STEPS)


def spans(pieces: Sequence[dict[str, Any]], *, octets: bool, gap: str = "not decoded yet") -> str:
    """Pieces of `GET /transmissions/{id}/decoded` as HTML. octets: whether tokens are octets, else they are ids."""
    out: list[str] = []
    end: int | None = None
    for piece in pieces:
        first = piece["first"]
        if end is not None and first > end:
            out.append(f'<span class="gap" data-gap="{first - end}" title="{first - end:,} tokens {gap}">⋯</span>')
        end = first + len(piece["tokens"])
        kind = " p" if piece["provisional"] else ""
        found = _characters(piece["tokens"], piece["bits"]) if octets else _ids(piece["tokens"], piece["bits"])
        for text, bits, place, size in found:
            many = f' data-n="{size}"' if size > 1 else ""
            out.append(f'<span class="c{step(bits)}{kind}" data-b="{bits:.2f}" data-p="{first + place}"{many}>{text}</span>')
    return "".join(out)


def _ids(tokens: Sequence[int], bits: Sequence[float]) -> Iterator[tuple[str, float, int, int]]:
    for place, (token, cost) in enumerate(zip(tokens, bits, strict=True)):
        yield f"{token} ", cost, place, 1


def _characters(tokens: Sequence[int], bits: Sequence[float]) -> Iterator[tuple[str, float, int, int]]:
    place = 0
    while place < len(tokens):
        size = _length(tokens, place)
        yield _shown(bytes(tokens[place : place + size])), sum(bits[place : place + size]), place, size
        place += size


def _length(tokens: Sequence[int], place: int) -> int:
    """Octets of the character that begins here; 1 where it is none."""
    lead = tokens[place]
    wanted = 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if 0xF0 <= lead < 0xF5 else 1
    try:
        bytes(tokens[place : place + wanted]).decode()
    except UnicodeDecodeError:
        return 1
    return min(wanted, len(tokens) - place)


def _shown(data: bytes) -> str:
    if data == b"\n":
        return "↵\n"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if text == "\t" or (text and text.isprintable()):
        return escape(text)
    return f"<i>{data.hex().upper()}</i>"
