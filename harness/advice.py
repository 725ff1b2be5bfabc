"""What two machines' reports say about why they could not agree, and what to do about it, in sentences.

A report is what `codelength doctor --json` printed, or what `codelength transmit --json` printed of a transmission that stopped
because the models differed: that one names the runtimes of both sides.
"""

import json
import re
from typing import Any, Final

_MUST_BE_EQUAL: Final = ("codelength", "f", "format")
_FINGERPRINTS: Final = re.compile(r"\(here: (\{.*?\}); peer: (\{.*?\})\)")


class ReportError(Exception):
    """A file that is no report."""


def read(text: str) -> dict[str, Any]:
    """A report. Raises `ReportError` where the text is none."""
    try:
        found = json.loads(text)
    except ValueError:
        raise ReportError("it is not JSON; make it with codelength doctor --json") from None
    if not isinstance(found, dict) or not ("vectors" in found or "error" in found):
        raise ReportError("it is neither of codelength doctor --json nor of codelength transmit --json")
    return found


def advise(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What to do. ours: this machine's report. theirs: the other machine's, or a transmission's."""
    return _of_transmission(ours, theirs) if "vectors" not in theirs else _of_machines(ours, theirs)


def _of_machines(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    differing = [name for name in ours["f"] if ours["f"][name] != theirs["f"].get(name)]
    if differing:
        parts = "; ".join(f"{name} {ours['f'][name]} here, {theirs['f'].get(name)} there" for name in differing)
        return [f"The two run different programs ({parts}): install the same version at both; nothing else matters before."]
    out = []
    for where, one in (("This machine", ours), ("The other machine", theirs)):
        if not one["exact"]:
            wrong = ", ".join(entry["name"] for entry in [*one["vectors"], *one["files"]] if not entry["exact"])
            cures = "with CODELENGTH_PRODUCTS=float64, with NUMBA_CPU_NAME=generic, with an emptied cache directory"
            out.append(
                f"{where} does not compute f exactly ({wrong}): do not use it. Run its doctor again {cures}; "
                "where one of these helps, use it, and report what the two reports say."
            )
    if out:
        return out
    if ours["result"] != theirs["result"]:
        return [
            "Both pass their own vectors and yet computed something else: one of the installations was changed; reinstall both."
        ]
    same = (
        "Both machines compute f exactly: under exact numerics a CHECK that failed came from damage, of memory or of a file, "
        "or from another version then. Send again; where it fails again at another place, test the memory of both."
    )
    known = _differences(
        {**ours["versions"], "processor": ours["machine"]["processor"]},
        {**theirs["versions"], "processor": theirs["machine"]["processor"]},
    )
    native = "; ".join(known) or "nothing that is known differs"
    return [
        same,
        f"Under native numerics what differs may be the cause ({native}); a code with exact numerics has no such cause.",
    ]


def _of_transmission(ours: dict[str, Any], result: dict[str, Any]) -> list[str]:
    detail = str((result.get("error") or {}).get("detail", ""))
    happened = "stopped" if detail else "diverged"  # and went on with the safe code: then a note tells of it
    told = [detail] if detail else [str(note) for note in result.get("notes") or []]
    detail, found = next(((text, match) for text in told if (match := _FINGERPRINTS.search(text))), ("", None))
    if found is None:
        return ["The transmission's error names no two runtimes: it did not stop because the models differ."]
    try:
        one, other = (json.loads(text) for text in found.groups())
    except ValueError:
        return ["The runtimes in the transmission's error cannot be read: run codelength doctor at both machines."]
    differing = [name for name in _MUST_BE_EQUAL if one.get(name) != other.get(name)]
    parts = _differences(one, other)
    out = [f"It {happened} here: {detail[: found.start()].strip()}."]
    if differing:
        return [*out, f"The two ran different programs ({'; '.join(parts)}): install the same version at both."]
    if parts:
        out.append(f"The runtimes differ ({'; '.join(parts)}); under exact numerics that must not matter, under native it may.")
    else:
        out.append("The runtimes are alike: think of damaged memory or files, and send again.")
    if ours["f"]["sources"] not in (one.get("f"), other.get("f")):
        out.append("This machine runs another version than either side then did; its report says nothing about them.")
    return [
        *out,
        "Run codelength doctor --json at each machine, and then, at one, codelength doctor --peer with the other's report.",
    ]


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    names = sorted({*one, *other})
    return [f"{name} {one.get(name)} and {other.get(name)}" for name in names if one.get(name) != other.get(name)]
