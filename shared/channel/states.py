"""The states of a conversation and the one table of what may be said in each. docs/protocol.md is generated from it.

Every message that changes the state can be sent by one side only, apart from those that close, so both sides see the same
sequence of states; a side that has closed ignores what was still under way to it.
SEAL stands outside the table: it belongs to the link.
"""

from enum import StrEnum

from shared.channel.messages import (
    Accept,
    Ack,
    Block,
    Cancel,
    Check,
    Code,
    Data,
    Done,
    End,
    Error,
    Hello,
    Message,
    Prepared,
    Refuse,
    Restart,
    Rollback,
    Text,
)


class Role(StrEnum):
    """The two sides."""

    ALICE = "alice"
    BOB = "bob"

    @property
    def other(self) -> "Role":
        """The peer's role."""
        return Role.BOB if self is Role.ALICE else Role.ALICE


class State(StrEnum):
    """Where a conversation stands."""

    OPENING = "opening"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    STREAMING = "streaming"
    ENDED = "ended"
    RESTARTING = "restarting"
    CLOSED = "closed"


_A, _B = Role.ALICE, Role.BOB

_ROWS: tuple[tuple[State, Role, tuple[type[Message], ...], State], ...] = (
    (State.OPENING, _A, (Hello,), State.OFFERED),
    (State.OFFERED, _B, (Accept,), State.ACCEPTED),
    (State.OFFERED, _B, (Refuse, Done), State.CLOSED),
    (State.ACCEPTED, _A, (Code, Text, Prepared), State.ACCEPTED),
    (State.ACCEPTED, _A, (Block, Data, Check), State.STREAMING),
    (State.ACCEPTED, _A, (End,), State.ENDED),
    (State.STREAMING, _A, (Block, Data, Check), State.STREAMING),
    (State.STREAMING, _A, (End,), State.ENDED),
    (State.STREAMING, _B, (Ack,), State.STREAMING),
    (State.ENDED, _B, (Ack,), State.ENDED),
    (State.ENDED, _B, (Done,), State.CLOSED),
    (State.ACCEPTED, _A, (Restart,), State.STREAMING),
    (State.STREAMING, _A, (Restart,), State.STREAMING),
    (State.ACCEPTED, _B, (Rollback,), State.RESTARTING),
    (State.STREAMING, _B, (Rollback,), State.RESTARTING),
    (State.ENDED, _B, (Rollback,), State.RESTARTING),
    (State.RESTARTING, _A, (Code, Text, Prepared, Block, Data, Check, End), State.RESTARTING),
    (State.RESTARTING, _A, (Restart,), State.STREAMING),
)

TABLE: dict[tuple[State, Role, type[Message]], State] = {
    (state, role, message): after for state, role, messages, after in _ROWS for message in messages
}
for _state in State:
    if _state is not State.CLOSED:
        for _role in Role:
            for _message in (Cancel, Error):
                TABLE[_state, _role, _message] = State.CLOSED


def after(state: State, role: Role, message: type[Message]) -> State | None:
    """The state after `role` sends `message`; None where that is not allowed."""
    return TABLE.get((state, role, message))
