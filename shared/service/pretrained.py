"""Directories of pretrained models, as Hugging Face's `save_pretrained` writes them, made codes: config.json and safetensors.

Nothing else of a directory is read, nothing in it is run, and nothing is fetched: an architecture that the installed
`transformers` does not have is refused. At the start files are hashed and their headers read; a worker loads the weights when
a transmission needs them. Directories are named by whoever starts a service or a command, never by what comes over a network.
"""

import contextlib
import hashlib
import inspect
import io
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from shared.code.errors import PretrainedError
from shared.code.models import Preset, preset
from shared.code.pretrained import Pretrained, register_pretrained
from shared.code.size import asset_bits
from shared.code.spec import Adam, BytesVocabulary, FrozenTraining, IdsVocabulary, PretrainedModel
from shared.service.coding import read_blocks

MEASURED_BYTES: Final = 1 << 25
"""Files of more bytes than this are charged as they are: coding them would take minutes to save a few percent."""

_CONTEXT: Final = 512
_STREAMS: Final = 8
_RATE: Final = 64  # of Adam, in units of 2^-20: 6.1e-5
_MAX_JSON_BYTES: Final = 1 << 26
_PART_BYTES: Final = 1 << 20
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_ALSO: Final = {
    "vocab_size": ("vocab_size", "n_vocab"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
}
"""What architectures call the same thing."""


def load_pretrained(paths: str | None) -> list[str]:
    """Make directories codes, their paths separated as in PATH; returns their names. Raises `PretrainedError`."""
    names: list[str] = []
    for path in (paths or "").split(os.pathsep):
        if path:
            found = _read(Path(path).resolve())
            register_pretrained(found)
            names.append(found.name)
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """config.json and the files of weights, in the order of their names, as they were when they were hashed."""

    directory: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    digest: str


def _read(directory: Path) -> Pretrained:
    name = directory.name
    if find_spec("transformers") is None or find_spec("safetensors") is None:
        raise PretrainedError(name, "transformers and safetensors are not installed: pip install 'codelength[pretrained]'")
    if not directory.is_dir():
        raise PretrainedError(name, "it is no directory" if directory.exists() else "there is no such directory")
    try:
        return _described(directory, name)
    except OSError as error:
        raise PretrainedError(
            name, f"{Path(error.filename or '').name}: {(error.strerror or 'cannot be read').lower()}"
        ) from None


def _described(directory: Path, name: str) -> Pretrained:
    config = _json(directory / "config.json", name)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not any(str(one).endswith(("ForCausalLM", "LMHeadModel")) for one in architectures):
        raise PretrainedError(name, f"it is no causal language model: config.json names the architecture {architectures}")
    if "quantization_config" in config:
        raise PretrainedError(name, "its weights are quantised, which is not supported; save it in float32 or bfloat16")
    names = ("config.json", *_weights(directory, name))
    parameters = sum(_parameters(directory / one, name) for one in names[1:])
    positions = _number(config, "max_position_embeddings", name, optional=True)
    size = _number(config, "vocab_size", name)
    files = _hashed(directory, names)
    first = config.get("bos_token_id")
    context = min(_CONTEXT, positions or _CONTEXT)
    try:
        found = Preset(
            name=name,
            summary=f"a pretrained {config.get('model_type')} of {parameters:,} parameters, m = {size:,}, native numerics",
            model=PretrainedModel(
                files=files.digest,
                parameters=parameters,
                layers=_number(config, "num_hidden_layers", name),
                width=max(_number(config, "hidden_size", name), _heads_width(config)),
                context=context,
            ),
            segment_tokens=max(1, context // 2),
            streams=_STREAMS,
            numerics="native",
            vocabulary=BytesVocabulary() if size == 256 else IdsVocabulary(size=size),
            training=FrozenTraining(optimizer=Adam(rate=_RATE)),
        )
    except ValidationError as error:
        one = error.errors()[0]
        raise PretrainedError(name, f"{'.'.join(map(str, one['loc']))}: {one['msg']}") from None
    return Pretrained(
        preset=found,
        positions=positions,
        first_token=first if isinstance(first, int) and 0 <= first < size else 0,
        load=lambda: _load(files, name),
        charge=lambda: _charged_bits(files),
    )


def _number(config: dict[str, Any], wanted: str, name: str, *, optional: bool = False) -> Any:
    value = next((config[one] for one in _ALSO[wanted] if config.get(one) is not None), None)
    if value is None and optional:
        return None
    if not isinstance(value, int) or value < 1:
        raise PretrainedError(name, f"config.json does not say its {wanted}")
    return value


def _heads_width(config: dict[str, Any]) -> int:
    heads, each = config.get("num_attention_heads"), config.get("head_dim")
    return heads * each if isinstance(heads, int) and isinstance(each, int) else 0


def _json(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise PretrainedError(name, f"it has no {path.name}")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise PretrainedError(name, f"{path.name} has {path.stat().st_size:,} bytes")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PretrainedError(name, f"{path.name} is no JSON object")
    return found


def _weights(directory: Path, name: str) -> list[str]:
    """The names of the files of weights, sorted; with shards their index too."""
    if (directory / _WEIGHTS).is_file():
        return [_WEIGHTS]
    if not (directory / _INDEX).is_file():
        raise PretrainedError(name, f"it has no {_WEIGHTS}; weights in other formats are not read")
    shards = _json(directory / _INDEX, name).get("weight_map")
    found = sorted({str(one) for one in shards.values()}) if isinstance(shards, dict) else []
    if not found or not all(re.fullmatch(r"[\w.-]+\.safetensors", one) for one in found):
        raise PretrainedError(name, f"{_INDEX} names no files of weights")
    for one in found:
        if not (directory / one).is_file():
            raise PretrainedError(name, f"it has no {one}, which {_INDEX} names")
    return found


def _parameters(path: Path, name: str) -> int:
    """The number of numbers in a file of weights, by its header, with which its size must agree."""
    size, total, end, length = path.stat().st_size, 0, 0, 0
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            for key, tensor in json.loads(file.read(min(length, _MAX_JSON_BYTES))).items():
                if key != "__metadata__":
                    total += prod(int(one) for one in tensor["shape"])
                    end = max(end, int(tensor["data_offsets"][1]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error, RecursionError):
        total = 0
    if size != 8 + length + end or total < 1:
        raise PretrainedError(name, f"{path.name} is damaged, cut short, or no safetensors file")
    return total


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            yield part


def _hashed(directory: Path, names: tuple[str, ...]) -> _Files:
    """The SHA-256 is over a line `SHA-256 BYTES NAME` for each file."""
    digest, sizes = hashlib.sha256(), []
    for one in names:
        inner, size = hashlib.sha256(), 0
        for part in _parts(directory / one):
            inner.update(part)
            size += len(part)
        digest.update(f"{inner.hexdigest()} {size} {one}\n".encode())
        sizes.append(size)
    return _Files(directory=directory, names=names, sizes=tuple(sizes), digest=digest.hexdigest())


class _Causal:
    """A model of transformers as f calls it, see `shared.code.models.pretrained.CausalModel`."""

    def __init__(self, module: Any) -> None:
        self.module = module
        known = inspect.signature(module.forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"  # renamed in transformers 5.2x
        self._keeps = "logits_to_keep" in known

    def forward(self, tokens: Any, cache: Any, last: int) -> tuple[Any, Any]:
        keep = {"logits_to_keep": last} if self._keeps else {}
        out = self.module(input_ids=tokens, use_cache=True, **{self._cache: cache}, **keep)
        found = getattr(out, self._cache, None)
        if found is None:
            raise TypeError("it keeps no keys and values between calls")
        return out.logits[:, -last:], found


def _load(files: _Files, name: str) -> _Causal:
    if _hashed(files.directory, files.names).digest != files.digest:
        raise PretrainedError(name, "its files are not what they were when this process started; start it again")
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[variable] = "1"
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    fields = json.loads((files.directory / "config.json").read_bytes())
    try:
        config = AutoConfig.for_model(**{**fields, "model_type": fields.get("model_type", "")})
        made = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except (KeyError, ValueError):
        raise PretrainedError(name, f"transformers has no causal language model of type {fields.get('model_type')!r}") from None
    if made.__name__ not in fields["architectures"]:
        raise PretrainedError(
            name, f"its architecture is {fields['architectures']}, and transformers would make a {made.__name__}"
        )
    try:
        weights: dict[str, torch.Tensor] = {}
        for one in files.names[1:]:
            weights |= load((files.directory / one).read_bytes())
        module, told = made.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            attn_implementation="eager",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PretrainedError(name, f"its weights cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from None
    mismatched = (one if isinstance(one, str) else one[0] for one in told["mismatched_keys"])
    lacking = sorted({*told["missing_keys"], *mismatched})
    if lacking:
        raise PretrainedError(name, f"its weights lack {', '.join(lacking[:3])}, or have them in another shape")
    return _Causal(module.eval())


def _charged_bits(files: _Files) -> int:
    """What |f| is charged: the files as they are or under `ngram`, whichever is less, in bits; a megabyte takes a second.

    Each with a line `NAME BYTES` before it. Figures are kept beside the kernels of the same f.
    """
    heads = [b"%s %d\n" % (one.encode(), size) for one, size in zip(files.names, files.sizes, strict=True)]
    total = sum(files.sizes) + sum(map(len, heads))
    if total > MEASURED_BYTES:
        return 8 * total
    place = os.environ.get("NUMBA_CACHE_DIR")
    kept = None if place is None else Path(place) / f"pretrained-{files.digest}"
    with contextlib.suppress(OSError, ValueError):
        if kept is not None:
            return int(kept.read_text(encoding="ascii"))
    data = io.BytesIO(b"".join(head + (files.directory / one).read_bytes() for head, one in zip(heads, files.names, strict=True)))
    bits = asset_bits(read_blocks(data.read, preset("ngram")), BytesVocabulary())
    if kept is not None:
        with contextlib.suppress(OSError):
            temporary = kept.with_suffix(f".{os.getpid()}")
            temporary.write_text(str(bits), encoding="ascii")
            temporary.replace(kept)
    return bits
