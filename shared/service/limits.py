"""What a code of unknown origin may ask for before the first token of D, reckoned from its spec alone."""

from dataclasses import dataclass

from shared.code.spec import CodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of whoever reads a file; services have settings. model_bytes: as `CodeSpec.memory_bytes` has them."""

    model_bytes: int = 1 << 29
    training_tokens: int = 1 << 26


def training_tokens(spec: CodeSpec) -> int:
    """The most tokens that a code trains on before D: steps · segment, and as many again for each pass of replay."""
    if spec.start is None:
        return 0
    replay = spec.training.replay
    return spec.start.steps * spec.segment_tokens * spec.streams * (1 + (0 if replay is None else replay.passes))
