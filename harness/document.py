"""The generated part of docs/protocol.md: messages, states and the diagram, from the tables that the code runs on."""

import sys
from pathlib import Path
from typing import Final

from shared.channel.messages import MESSAGES
from shared.channel.states import TABLE, Role, State

BEGIN: Final = "<!-- generated from shared/channel: make docs -->"
END: Final = "<!-- /generated -->"


def generated() -> str:
    """The text between the marks, marks included."""
    lines = [BEGIN, "", "| number | message | from | |", "|---|---|---|---|"]
    for number, cls in sorted(MESSAGES.items()):
        senders = [role.value.title() for role in Role if any(r is role and m is cls for _, r, m in TABLE)]
        lines.append(f"| {number} | {cls.__name__.upper()} | {', '.join(senders)} | {cls.summary} |")
    lines += ["", "| state | sender | message | next state |", "|---|---|---|---|"]
    for (state, role, cls), after in TABLE.items():
        if after is not State.CLOSED or cls.__name__ not in ("Cancel", "Error"):
            lines.append(f"| {state} | {role.value.title()} | {cls.__name__.upper()} | {after} |")
    lines += ["| any but closed | either | CANCEL, ERROR | closed |", "", "```mermaid", "stateDiagram-v2", "    [*] --> opening"]
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, _, cls), after in TABLE.items():
        if cls.__name__ not in ("Cancel", "Error"):
            names = edges.setdefault((state, after), [])
            if cls.__name__.upper() not in names:
                names.append(cls.__name__.upper())
    lines += [f"    {state} --> {after}: {', '.join(names)}" for (state, after), names in edges.items()]
    return "\n".join([*lines, "    closed --> [*]", "```", "", END])


def rewrite(path: Path) -> None:
    """Put the generated text between the marks of a file."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + generated() + after, encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
