"""The registry: presets by name, and the predictor of a spec. Models, and numba, are imported when one is built, not before."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from shared.code.errors import UnknownPresetError
from shared.code.ranks import ALONE, Ranks
from shared.code.spec import (
    Adam,
    BytesVocabulary,
    CodeSpec,
    EnsembleModel,
    FrequencyModel,
    MixingModel,
    Model,
    NgramModel,
    OnlineTraining,
    PluginModel,
    PretrainedModel,
    RecurrentModel,
    Tables,
    Training,
    TransformerModel,
    UniformModel,
    Vocabulary,
)

if TYPE_CHECKING:
    from shared.code.models.base import Predictor  # numba
    from shared.code.models.trunk import Trunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A model with a name that people can type, and what it is in one line. vocabulary: where none is given.

    heavy: so much to compute that nothing does it unasked.
    """

    name: str
    summary: str
    model: Model
    block_tokens: int = 65_536
    segment_tokens: int = 4096
    streams: int = 1
    heavy: bool = False
    numerics: Literal["exact", "native"] = "exact"
    vocabulary: Vocabulary = field(default_factory=BytesVocabulary)
    training: Training = field(default_factory=OnlineTraining)

    @property
    def local(self) -> bool:
        """Whether it is of files that a user named, which another side may not hold."""
        return isinstance(self.model, PluginModel | PretrainedModel)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(name="uniform", summary="p = 1/m: the baseline S_0", model=UniformModel()),
        Preset(name="frequency", summary="adaptive counts of order 0 (Krichevsky-Trofimov)", model=FrequencyModel()),
        Preset(name="ngram", summary="contexts of 0 to 5 tokens, hashed, mixed and learned online", model=NgramModel()),
        Preset(name="mixing", summary="24 kinds of context and matches, mixed by gated linear networks", model=MixingModel()),
        Preset(
            name="mixing-large",
            summary="the same with 36 kinds of context and more mixers",
            model=MixingModel(contexts=36, sets=12, table_mebibytes=448, match_minimum=6),
        ),
        Preset(
            name="ensemble",
            summary="mixing-large with the predictions of a small LSTM among what is mixed",
            model=EnsembleModel(contexts=36, sets=12, table_mebibytes=448, match_minimum=6),
        ),
        Preset(
            name="recurrent",
            summary="a gated recurrent network with n-gram logit tables, trained online, exact",
            model=RecurrentModel(),
            segment_tokens=32,
            streams=16,
        ),
        Preset(
            name="transformer",
            summary="a decoder-only transformer, trained online, exact",
            model=TransformerModel(hidden=256, taps=4, tables=None),
            segment_tokens=16,
            streams=16,
        ),
        Preset(
            name="transformer-tables",
            summary="a transformer with n-gram logit tables, trained online, exact",
            model=TransformerModel(taps=4),
            segment_tokens=32,
            streams=16,
        ),
        Preset(
            name="transformer-large",
            summary="27 million weights and n-gram logit tables, for a GPU, trained online, exact",
            model=TransformerModel(layers=6, width=512, hidden=1024, taps=4, context=128, tables=Tables(bits=18)),
            training=OnlineTraining(optimizer=Adam(rate=500)),
            block_tokens=131_072,
            segment_tokens=32,
            streams=64,
            heavy=True,
        ),
    )
}


def preset(name: str, vocabulary: Vocabulary | None = None) -> CodeSpec:
    """The spec of a preset over a vocabulary (its own, mostly octets, if none is given). Raises `UnknownPresetError`."""
    if name not in PRESETS:
        raise UnknownPresetError(name, tuple(PRESETS))
    found = PRESETS[name]
    return CodeSpec(
        vocabulary=vocabulary or found.vocabulary,
        model=found.model,
        training=found.training,
        block_tokens=found.block_tokens,
        segment_tokens=found.segment_tokens,
        streams=found.streams,
        numerics=found.numerics,
    )


def spec_of(code: str | dict[str, Any], vocabulary: Vocabulary | None = None) -> CodeSpec:
    """The spec of a preset's name over a vocabulary, or of the fields of a whole spec. Raises an `InputError`."""
    return preset(code, vocabulary) if isinstance(code, str) else CodeSpec.from_fields(code)


def build(spec: CodeSpec, ranks: Ranks = ALONE) -> "Predictor":
    """A fresh predictor, p^(0). ranks: the processes that share a network's streams; the other models do not."""
    if isinstance(spec.model, PluginModel):
        from shared.code.plugins import build_plugin

        return build_plugin(spec)
    if isinstance(spec.model, PretrainedModel):
        from shared.code.pretrained import build_pretrained

        return build_pretrained(spec)
    if spec.numerics == "native":
        from shared.code.models.native import Native

        return Native(spec)
    match spec.model:
        case UniformModel():
            from shared.code.models.uniform import Uniform

            return Uniform(spec.vocabulary_size)
        case FrequencyModel():
            from shared.code.models.frequency import Frequency

            return Frequency(spec.vocabulary_size)
        case NgramModel(order=order, table_bits=table_bits):
            from shared.code.models.ngram import Ngram

            return Ngram(spec.vocabulary_size, order, table_bits)
        case MixingModel() as model:
            from shared.code.models.mixing import Mixing

            return Mixing(spec.vocabulary_size, model)
        case EnsembleModel() as model:
            from shared.code.models.ensemble import Ensemble

            return Ensemble(spec.vocabulary_size, model)
        case RecurrentModel():
            from shared.code.models.recurrent import Recurrent

            return Recurrent(spec, ranks)
        case TransformerModel():
            from shared.code.models.transformer import Transformer

            return Transformer(spec, ranks)


def build_trunk(spec: CodeSpec, ranks: Ranks) -> "Trunk":
    """The trunk of a network's spec for a rank that follows; see `shared.code.models.trunk`."""
    from shared.code.models.trunk import Trunk

    if isinstance(spec.model, RecurrentModel):
        from shared.code.models import recurrent

        return Trunk(spec, recurrent.mixing(spec), ranks)
    from shared.code.models import transformer

    return Trunk(spec, transformer.mixing(spec), ranks)
