"""The root of the project's exceptions, and the classes that f itself raises.

The whole tree, with the classes of the channel and of the services, stands in `shared.channel.errors`. Classes carry
typed fields and build their text in `__str__`. This module knows nothing of sockets, close codes or HTTP.
"""


class CodelengthError(Exception):
    """Root of everything that codelength raises on purpose."""


class InputError(CodelengthError):
    """What the caller gave cannot be used; nothing was changed."""


class SpecError(InputError):
    """A code specification that is malformed, oversized, or of a format this version does not speak."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not a valid code specification: {self.reason}"


class UnknownPresetError(InputError):
    """No preset has this name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        return f"no preset is called {self.name[:64]!r}; there are {', '.join(self.known)}"


class PluginError(InputError):
    """A plugin that is not held here, or held with another source, or whose file cannot be used."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the plugin {self.name}: {self.reason}"


class PretrainedError(InputError):
    """A pretrained model whose files are not held here, cannot be used, or do not fit the code."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the pretrained model {self.name}: {self.reason}"


class CorpusError(InputError):
    """A corpus that the code starts from is not held, is not the one named, or cannot be trained on."""

    def __init__(self, sha256: str, reason: str) -> None:
        super().__init__(sha256, reason)
        self.sha256 = sha256
        self.reason = reason

    def __str__(self) -> str:
        return f"the corpus {self.sha256}: {self.reason}"


class TokenizerError(InputError):
    """A tokenizer that is not held, is not the one named, or cannot be used. sha256: of its file."""

    def __init__(self, sha256: str, reason: str) -> None:
        super().__init__(sha256, reason)
        self.sha256 = sha256
        self.reason = reason

    def __str__(self) -> str:
        return f"the tokenizer {self.sha256}: {self.reason}"


class VocabularyError(InputError):
    """A token outside the vocabulary, or data that cannot be read as tokens of it."""

    def __init__(self, reason: str, *, position: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position

    def __str__(self) -> str:
        return self.reason if self.position is None else f"token {self.position}: {self.reason}"


class CodecError(CodelengthError):
    """Coding cannot go on."""


class StateError(CodecError):
    """State bytes that do not belong to this predictor or coder."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot restore the state: {self.reason}"


class CorruptCodeError(CodecError):
    """Code bits that no encoder can have written at this point."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position

    def __str__(self) -> str:
        return f"the code is damaged at or before token {self.position}"


class PluginFailedError(CodecError):
    """A plugin's predictor raised, or did what no predictor may."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the plugin {self.name} failed: {self.reason}"


class PretrainedFailedError(CodecError):
    """A pretrained model raised while it predicted or learned, or gave what are no logits."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the pretrained model {self.name} failed: {self.reason}"


class NonPortableOperation(CodecError):  # noqa: N818 - an operation, refused
    """An operation that can give other bits on another machine was about to influence a probability."""

    def __init__(self, operation: str, way: str) -> None:
        super().__init__(operation, way)
        self.operation = operation
        self.way = way

    def __str__(self) -> str:
        return f"{self.operation} can give other bits on another machine; the lawful way: {self.way}"


class MachineError(CodecError):
    """The machine, as it is set up, does not compute f exactly."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
