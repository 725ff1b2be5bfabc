"""Token ids of a byte-level BPE under every preset: rate, bits and memory at a large m. Prints docs/results.md's table.

    python -m benchmarks.tokens TEXT [--bytes N] [--vocabulary M] [--codes NAMES]

The tokenizer is trained on the text itself, with the package `tokenizers`; so is the dataset cut from it. A text has no
more tokens than it has words: m is then a size given to the code, as GPT-2's 50,257, of which the ids use a part.
Each code runs in a process of its own, encoder and decoder, and the tokens are compared.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from shared.service.kernels import prepare_kernel_cache

_WARM_TOKENS = 600


def tokenized(text: bytes, most: int) -> Any:
    """Ids of a text by a byte-level BPE of at most `most` tokens, trained on it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=most, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([text.decode()], trainer)
    return np.array(inner.encode(text.decode()).ids, dtype=np.uint32)


def measure(code: str, path: Path, vocabulary_size: int) -> dict[str, Any]:
    """One code over the ids at a path: seconds either way, bits, and the most memory resident."""
    prepare_kernel_cache()
    from shared.code.models import preset
    from shared.code.spec import IdsVocabulary
    from shared.service.coding import TransmissionDecoder, TransmissionEncoder
    from shared.service.kernels import ready_for
    from shared.service.worker import peak_memory_bytes, reset_peak_memory

    spec = preset(code, IdsVocabulary(size=vocabulary_size))
    ready_for(spec)
    ids = np.fromfile(path, dtype="<u4")

    def once(tokens: Any) -> dict[str, Any]:
        reset_peak_memory()
        blocks = [tokens[start : start + spec.block_tokens] for start in range(0, len(tokens), spec.block_tokens)]
        encoder = TransmissionEncoder(spec, blocks)
        messages = [message for message in encoder.messages() if message is not None]
        memory, seconds, bits = peak_memory_bytes(), encoder.seconds, encoder.encoder.z_bits
        del encoder
        decoder = TransmissionDecoder(spec, max_tokens=len(tokens))
        found = []
        for message in messages:
            decoder.take(message)
            found += [block[0] for block in decoder.blocks() if block is not None]
        assert np.array_equal(np.concatenate(found), tokens)
        return {"encode": seconds, "decode": decoder.seconds, "bits": bits, "memory": memory, "estimate": spec.memory_bytes}

    once(ids[:_WARM_TOKENS])
    return once(ids)


def main() -> None:
    """Measure, one process after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--bytes", type=int, default=200_000)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--codes")
    parser.add_argument("--ids", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ids is not None:
        print(json.dumps(measure(asked.codes, asked.ids, asked.vocabulary)))
        return
    from shared.code.models import PRESETS

    text = asked.text.read_bytes()[: asked.bytes].decode("utf-8", "ignore").encode()
    ids = tokenized(text, asked.vocabulary)
    print(f"{len(text):,} bytes, {len(ids):,} tokens, {len(np.unique(ids)):,} different; m = {asked.vocabulary:,}", flush=True)
    print(
        "| code | encode, tokens/s | decode, tokens/s | bits/token | bits/byte | memory, MB |\n|---|--:|--:|--:|--:|--:|",
        flush=True,
    )
    path = Path(f"/tmp/codelength-{time.time_ns()}.ids")  # noqa: S108 - ours alone
    try:
        ids.astype("<u4").tofile(path)
        for code in asked.codes.split(",") if asked.codes else PRESETS:
            size = "--vocabulary", str(asked.vocabulary)
            command = [sys.executable, "-m", "benchmarks.tokens", str(asked.text), *size, "--codes", code, "--ids", str(path)]
            out = subprocess.run(command, capture_output=True, text=True, check=False)
            if out.returncode:
                print(f"| `{code}` | {out.stderr.strip().splitlines()[-1]} |", flush=True)
                continue
            found = json.loads(out.stdout)
            cells = (
                f"{len(ids) / found['encode']:,.0f}",
                f"{len(ids) / found['decode']:,.0f}",
                f"{found['bits'] / len(ids):.3f}",
                f"{found['bits'] / len(text):.3f}",
                f"{found['memory'] / 1e6:,.0f}",
            )
            print(f"| `{code}` | {' | '.join(cells)} |", flush=True)
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
