"""A walk through codelength, cell by cell; open it as a notebook, or run it: python examples/walk_through.py."""

# %% What does it cost to tell Bob this text, if both learn while it is sent?
import numpy as np

from harness import compare, transmit

TEXT = "How much wood would a woodchuck chuck, if a woodchuck could chuck wood? " * 60
result = transmit(TEXT)
print(f"{result.tokens} bytes, {result.bits_per_byte:.3f} bits each, k = {result.steps} steps")

# %% Prediction is compression: every token cost −log2 p. The first line is news, its repetitions hardly are.
line = len(TEXT) // 60
first, last = result.costs[:line].sum(), result.costs[-line:].sum()
print(f"the first line cost {first:.0f} bits, the last one {last:.1f}")
assert last < first / 10
assert abs(result.costs.sum() - result.nll_bits) < 0.01

# %% S_k counts f too: for a text as short as this, the code is the larger part, and r_k net of |f| shows what was learned.
print(f"S_0 = {result.s0_bits:,.0f} bits, S_k = {result.sk_bits:,.0f} bits, of which |f| = {result.f_bits:,}")
assert result.sk_bits == result.f_bits + result.nll_bits

# %% The arithmetic code is no estimate: z is as long as the cost says, up to a few bits at its end.
assert abs(result.z_bits - result.nll_bits) < 64

# %% Pictures: in a notebook the last line of a cell is enough; `save` writes .svg or .png.
figure = result.plot()

# %% Several codes, sorted by S_k, with gzip and xz beside them.
comparison = compare(TEXT, ["uniform", "frequency", "ngram"])
for one in comparison.results:
    print(f"{one.code:<10} {one.sk_bits / 8:>10,.0f} bytes")
print(comparison.others)

# %% Token ids work alike: a list, an array or a torch tensor. What cannot be predicted cannot be compressed, and is not.
noise = np.random.default_rng(0).integers(0, 1000, 5000)
random = transmit(noise, "frequency", vocabulary_size=1000)
print(f"uniform noise: {random.nll_bits / random.tokens:.3f} bits a token, log2 1000 = {np.log2(1000):.3f}")
assert random.nll_bits > random.tokens * np.log2(1000)
