"""The channel's exceptions, and what every exception of the project is called to the outside.

    CodelengthError
    ├── InputError                      what the caller gave cannot be used
    │   ├── SpecError
    │   ├── UnknownPresetError
    │   ├── VocabularyError
    │   ├── PluginError                 a plugin that is not here, or not the same
    │   ├── PretrainedError             a model's files are not here, or do not fit the code
    │   ├── CorpusError
    │   └── TokenizerError
    ├── CodecError                      coding cannot go on
    │   ├── StateError
    │   ├── CorruptCodeError
    │   ├── NonPortableOperation        other machines would compute other bits
    │   ├── PluginFailedError           a plugin's predictor raised
    │   ├── PretrainedFailedError       a pretrained model raised
    │   └── MachineError                this machine does not compute f exactly
    └── ChannelError                    the conversation cannot go on
        ├── LocalProtocolError          our side tried what the protocol forbids
        ├── RemoteProtocolError         the peer did
        │   ├── BadFrameError
        │   ├── UnknownMessageError
        │   ├── UnexpectedMessageError
        │   ├── VersionError
        │   ├── DamagedLinkError        the bytes changed on their way
        │   └── LimitError
        ├── RefusedError                Bob said no
        ├── DivergedError               the two sides' f differ, or z was damaged
        ├── StartMismatchError          the two sides' models differ before the first token
        ├── DigestMismatchError         the reconstruction is not D
        ├── PeerLostError               the connection went away
        ├── PeerFailedError             the peer reported an error
        ├── CancelledTransmissionError
        └── StoredError                 a file is no whole, undamaged transmission
            ├── NotStoredError
            ├── StoredVersionError
            ├── HeaderDamagedError
            ├── StoredDamagedError
            └── TruncatedError

`describe` gives each class its slug, its websocket close code and its HTTP status. Close codes 4000 … 4999 are for
applications (RFC 6455, 7.4.2).
"""

from typing import NamedTuple

from shared.code.errors import (
    CodecError,
    CodelengthError,
    CorpusError,
    CorruptCodeError,
    InputError,
    MachineError,
    NonPortableOperation,
    PluginError,
    PluginFailedError,
    PretrainedError,
    PretrainedFailedError,
    SpecError,
    StateError,
    TokenizerError,
    UnknownPresetError,
    VocabularyError,
)


class ChannelError(CodelengthError):
    """The conversation between Alice and Bob cannot go on."""


class LocalProtocolError(ChannelError):
    """Our own side tried to send what the protocol forbids here; nothing was sent."""


class RemoteProtocolError(ChannelError):
    """The peer sent what the protocol forbids."""


class BadFrameError(RemoteProtocolError):
    """Bytes that are no record, or a record whose body is malformed."""


class UnknownMessageError(RemoteProtocolError):
    """A record type that this version does not know."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"message type {self.number} is not known in this version of the protocol"


class UnexpectedMessageError(RemoteProtocolError):
    """A message that is not allowed in the state of the conversation."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message, state)
        self.message = message
        self.state = state

    def __str__(self) -> str:
        return f"{self.message} is not allowed while {self.state}"


class VersionError(RemoteProtocolError):
    """The peer speaks another version of the protocol."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(theirs, ours)
        self.theirs = theirs
        self.ours = ours

    def __str__(self) -> str:
        return f"the peer speaks protocol version {self.theirs}, this side version {self.ours}"


class DamagedLinkError(RemoteProtocolError):
    """A SEAL does not hold: the bytes were changed on their way, and none since the last SEAL is believed."""

    def __str__(self) -> str:
        return "the connection changed bytes on their way: a SEAL does not hold"


class LimitError(RemoteProtocolError):
    """A record larger than its type may be, or more data than credit was given for."""

    def __init__(self, what: str, value: int, limit: int) -> None:
        super().__init__(what, value, limit)
        self.what = what
        self.value = value
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.what}: {self.value} is more than the limit of {self.limit}"


class RefusedError(ChannelError):
    """Bob does not accept the transmission. `problem` is the slug of his reason."""

    def __init__(self, problem: str, reason: str) -> None:
        super().__init__(problem, reason)
        self.problem = problem
        self.reason = reason

    def __str__(self) -> str:
        return f"Bob refused: {self.reason}"


class DivergedError(ChannelError):
    """The check of a block does not hold: the sides computed different f, or z was damaged on its way.

    The tokens first … last - 1 cannot be trusted; all before them are agreed. The fingerprints say what computed f at
    either side.
    """

    def __init__(self, first: int, last: int, ours: str, theirs: str) -> None:
        super().__init__(first, last, ours, theirs)
        self.first = first
        self.last = last
        self.ours = ours
        self.theirs = theirs

    def __str__(self) -> str:
        return (
            f"the check over tokens {self.first} to {self.last - 1} failed: the code was damaged on its way, or the two sides "
            f"compute f differently (here: {self.ours}; peer: {self.theirs})"
        )


class StartMismatchError(ChannelError):
    """After their training on the corpus, before the first token, the two sides' models differ. Digests are SHA-256 in hex."""

    def __init__(self, steps: int, ours: str, theirs: str) -> None:
        super().__init__(steps, ours, theirs)
        self.steps = steps
        self.ours = ours
        self.theirs = theirs

    def __str__(self) -> str:
        return (
            f"after {self.steps} steps on the corpus the models differ: SHA-256 {self.ours} here, {self.theirs} at the peer; "
            "one side's snapshot is false, or its machine does not compute f exactly"
        )


class DigestMismatchError(ChannelError):
    """The SHA-256 of what was decoded, or read, is not that of D."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"the dataset's SHA-256 is {self.found}, announced was {self.expected}"


class PeerLostError(ChannelError):
    """The connection could not be made, or ended before the transmission did."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the peer is gone: {self.reason}"


class PeerFailedError(ChannelError):
    """The peer ended the transmission with an error. `problem` is the slug of its reason."""

    def __init__(self, problem: str, reason: str) -> None:
        super().__init__(problem, reason)
        self.problem = problem
        self.reason = reason

    def __str__(self) -> str:
        return f"the peer reports: {self.reason}"


class CancelledTransmissionError(ChannelError):
    """Somebody cancelled the transmission."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"cancelled: {self.reason}"


class StoredError(ChannelError):
    """A file that should hold a transmission does not, or not all of it."""


class NotStoredError(StoredError):
    """These bytes are no stored transmission."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not a file of codelength: {self.reason}"


class StoredVersionError(StoredError):
    """The file was written in a form that this version does not read."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(theirs, ours)
        self.theirs = theirs
        self.ours = ours

    def __str__(self) -> str:
        return f"the file is of format version {self.theirs}, this codelength reads version {self.ours}; use a newer one"


class HeaderDamagedError(StoredError):
    """The head of the file is not as it was written."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the head of the file is damaged: {self.reason}"


class StoredDamagedError(StoredError):
    """The CRC over the whole of the file does not hold."""

    def __str__(self) -> str:
        return "the file is damaged: its CRC-32 does not hold"


class TruncatedError(StoredError):
    """The file ends before the transmission does."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def __str__(self) -> str:
        return f"the file ends after {self.size} bytes, before the transmission does"


class Description(NamedTuple):
    """What an exception is called outside: `urn:codelength:problem:<slug>`, websocket close code, HTTP status."""

    slug: str
    close_code: int
    http_status: int


_DESCRIPTIONS: dict[type[CodelengthError], Description] = {
    CodelengthError: Description("internal", 1011, 500),
    InputError: Description("invalid-input", 4000, 422),
    SpecError: Description("invalid-spec", 4001, 422),
    UnknownPresetError: Description("unknown-code", 4002, 422),
    VocabularyError: Description("not-in-vocabulary", 4003, 422),
    CorpusError: Description("corpus-unavailable", 4004, 422),
    PluginError: Description("plugin-unavailable", 4005, 422),
    TokenizerError: Description("tokenizer-unavailable", 4007, 422),
    PretrainedError: Description("pretrained-unavailable", 4006, 422),
    CodecError: Description("codec", 4010, 500),
    StateError: Description("invalid-state", 4011, 500),
    CorruptCodeError: Description("corrupt-code", 4012, 500),
    NonPortableOperation: Description("non-portable-operation", 4013, 500),
    MachineError: Description("inexact-machine", 4014, 500),
    PluginFailedError: Description("plugin-failed", 4015, 500),
    PretrainedFailedError: Description("pretrained-failed", 4016, 500),
    ChannelError: Description("channel", 4020, 502),
    LocalProtocolError: Description("local-protocol-error", 1011, 500),
    RemoteProtocolError: Description("protocol-error", 4021, 502),
    BadFrameError: Description("bad-frame", 4022, 502),
    UnknownMessageError: Description("unknown-message", 4023, 502),
    UnexpectedMessageError: Description("unexpected-message", 4024, 502),
    VersionError: Description("version-mismatch", 4025, 502),
    LimitError: Description("limit-exceeded", 4026, 502),
    DamagedLinkError: Description("damaged-link", 4027, 502),
    RefusedError: Description("refused", 4030, 502),
    DivergedError: Description("diverged", 4031, 502),
    DigestMismatchError: Description("digest-mismatch", 4032, 502),
    StartMismatchError: Description("start-mismatch", 4036, 502),
    PeerLostError: Description("peer-lost", 4033, 502),
    PeerFailedError: Description("peer-failed", 4034, 502),
    CancelledTransmissionError: Description("cancelled", 4035, 409),
    StoredError: Description("bad-file", 4050, 422),
    NotStoredError: Description("not-a-codelength-file", 4051, 422),
    StoredVersionError: Description("file-version", 4052, 422),
    HeaderDamagedError: Description("damaged-header", 4053, 422),
    StoredDamagedError: Description("damaged-file", 4055, 422),
    TruncatedError: Description("truncated", 4054, 422),
}


def describe(error: BaseException) -> Description:
    """What an exception is called outside; of its own class or the nearest documented one, `internal` for a stranger."""
    for cls in type(error).__mro__:
        if cls in _DESCRIPTIONS:
            return _DESCRIPTIONS[cls]
    return _DESCRIPTIONS[CodelengthError]
