"""Small pretrained models that tests make themselves, in the format of Hugging Face."""

import sys
from contextlib import contextmanager
from pathlib import Path

from shared.code.models import PRESETS, preset
from shared.code.pretrained import PRETRAINED
from shared.service.pretrained import load_pretrained

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

TEXT = b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. " * 60


def save_tiny(directory: Path) -> Path:
    """A Llama over octets, trained for a second on TEXT."""
    from pretrain import train

    train(TEXT, steps=60, width=32, layers=2, context=32, batch=8, rate=1e-2).save_pretrained(directory)
    return directory


def save_ids(directory: Path, m: int = 300) -> Path:
    """A GPT-2 over m ids, with its first weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ends = {"bos_token_id": 7, "eos_token_id": 7}
    GPT2LMHeadModel(GPT2Config(vocab_size=m, n_embd=16, n_layer=1, n_head=2, n_positions=24, **ends)).save_pretrained(directory)
    return directory


def small_spec(name: str, *, regime: str = "frozen", rate: int = 3000, **fields):
    """The spec of a directory's code with blocks, segments and a context of few tokens, over its own vocabulary."""
    spec = preset(name).model_dump(mode="json") | {"block_tokens": 90, "segment_tokens": 5, "streams": 3}
    spec["model"]["context"] = fields.pop("context", 16)
    spec["training"] = {"kind": regime, "optimizer": {"rate": rate}}
    return type(preset(name)).from_fields(spec | fields)


@contextmanager
def held(*directories: Path):
    """The codes of directories, for a while."""
    before = dict(PRETRAINED), dict(PRESETS)
    try:
        yield load_pretrained(":".join(map(str, directories)))
    finally:
        for kept, now in zip(before, (PRETRAINED, PRESETS), strict=True):
            now.clear()
            now.update(kept)
