"""Train a small byte-level language model on a file, and save it as Hugging Face models are saved: config.json and safetensors.

    python examples/pretrain.py TEXT DIRECTORY [--steps 200] [--width 128] [--layers 2] [--context 128]
    codelength transmit FILE --pretrained DIRECTORY

Needs the extra `pretrained`. A Llama of a few hundred thousand weights, m = 256; seconds for a toy, minutes for a better one.
"""

import argparse
import os
import time
from pathlib import Path

import torch
from torch import Tensor


def train(data: bytes, *, steps: int, width: int, layers: int, context: int, batch: int = 16, rate: float = 3e-3, seed: int = 1):
    """The trained model: AdamW on windows drawn at random, with a rate that rises over a tenth of the steps and then falls."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    heads = max(1, width // 32)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, "num_attention_heads": heads}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=context, **shape, **ends))
    tokens = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1, cycle_momentum=False)
    started = time.monotonic()
    for step in range(steps):
        starts = torch.randint(len(tokens) - context - 1, (batch,)).tolist()
        windows = torch.stack([tokens[start : start + context + 1] for start in starts])
        windows[::4, 0] = 0  # what stands before the first token of a text, see bos_token_id
        logits: Tensor = model(input_ids=windows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: {loss.item() / 0.6931:.3f} bits a byte, {time.monotonic() - started:.0f} s", flush=True)
    return model.eval()


def main() -> None:
    """Read, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("directory", type=Path)
    for name, default in (("steps", 200), ("width", 128), ("layers", 2), ("context", 128), ("batch", 16), ("skip", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    sizes = {name: getattr(given, name) for name in ("steps", "width", "layers", "context", "batch")}
    model = train(given.text.read_bytes()[given.skip :], **sizes)
    model.save_pretrained(given.directory)
    print(f"{sum(one.numel() for one in model.parameters()):,} weights in {given.directory}")


if __name__ == "__main__":
    main()
