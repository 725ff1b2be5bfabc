"""An independent decoder of codelength's stored neural transmissions, written from protocol.md and models.md alone.

`python decoder.py [--about] FILE.clz1 [CORPUS…] > out` decodes and verifies; it exits 1 with a sentence on stderr where anything is wrong.
Whole numbers, and whole multiples of one power of two, are held in f64 where they are multiplied and added up: that is exact
below 2^53 units (M-4), so scales are applied at once here. Every NumPy operation has one stated type: all constants beside f32
arrays are f32, so NumPy 1 and 2 do the same. Clauses stand beside the lines that implement them.
"""

import hashlib
import json
import struct
import sys
import zlib

import numpy as np

F32, F64, I32, I64, U64 = np.float32, np.float64, np.int32, np.int64, np.uint64
UNIT = F64(2.0**-10)  # of activations in products, M-7
MASK, GOLDEN, MIX = 2**64 - 1, 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
MAGIC = b"\x89CLZ1\r\n\x1a\x01"  # F-1, with the form's version
UNKNOWN = "its spec is of a kind that this decoder does not know"
NOTHING = 2**32 - 1  # in replay.tokens, M-52
HELLO, BLOCK, DATA, CHECK, END, PREPARED = 1, 5, 6, 7, 8, 15
FIELDS = {HELLO: "itoItttt", BLOCK: "ii", DATA: "o", CHECK: "iiS", END: "isi", PREPARED: "s"}  # M-11, letters as in Reader.record
COEFFICIENTS = ("1.430912p-13", "1.5d87fep-10", "1.3b2ab6p-7", "1.c6b08ep-5", "1.ebfbep-3", "1.62e43p-1", "1")  # M-6: c_6 … c_0
LOG2E, *EXP = (F32(float.fromhex(c)) for c in ("1.715476p0", *COEFFICIENTS))


def require(holds, sentence):  # refuse the transmission unless something holds
    if not holds:
        raise ValueError(sentence)


def isqrt(n):  # ⌊√n⌋; the root in f64 is at most 1 off below 2^100
    return round(n**0.5) - (round(n**0.5) ** 2 > n)


def pow2(e, kind=F32):  # 2^e from its bit pattern
    bias, shift, pattern = (127, 23, I32) if kind is F32 else (1023, 52, I64)
    return ((np.asarray(e, I64) + bias) << shift).astype(pattern).view(kind)


def whole(x, c):  # M-3: rounded and held within [−c, c]; whole numbers in f64
    return np.clip(np.rint(x), -x.dtype.type(c), x.dtype.type(c)).astype(F64)


def quantise(x):  # M-7: q(x)
    return whole(x * F32(1024), 16384)


def fixed(x, bits, axis=None, most=60):  # whole(x × 2^(bits − e), 2^bits) × 2^(e − bits), e = E(max |x|), M-5
    peak = np.abs(x).max(axis, keepdims=axis is not None)
    e = np.clip(((peak.view(I32) >> 23) & 255).astype(I64) - 126, -60, most)
    return whole(x * pow2(bits - e), 2**bits) * pow2(e - bits, F64)


def exp(x):  # M-6: e^x for x ≤ 0
    n = np.rint(y := np.maximum(x * LOG2E, F32(-100)))
    f, p = y - n, EXP[0]
    for c in EXP[1:]:
        p = (p * f) + c
    return p * pow2(n)


def logistic(x):  # M-6: σ(x)
    e = exp(-np.minimum(np.abs(x), F32(30)))
    s = F32(1) / (F32(1) + e)
    return np.where(x >= 0, s, e * s)


def irms(x):  # M-8: of each line, the last axis, which is kept
    mean = (fixed(x, 20, -1) ** 2).sum(-1, keepdims=True) / F64(x.shape[-1])
    return F32(F64(1) / np.sqrt(mean + F64(2.0**-20)))


def norm_gradient(a, u, r):  # what goes back through u = x × r: (a − u × mp(a, u)) × r, with mp of M-8
    s = (fixed(a, 20, -1) * quantise(u)).sum(-1, keepdims=True)
    return (a - u * F32((s * UNIT) / F64(a.shape[-1]))) * r


def hashed(i, seed, n=1):  # M-19: z of the weights i, i + 1, … i + n − 1
    z = np.arange(n, dtype=U64) + U64((i + seed * 2**32 + 1) & MASK)
    z = z * U64(GOLDEN)
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    return z ^ (z >> U64(31))


def first(seed, a, c, shape):  # M-19: first weights
    z = hashed(0, seed, shape[0] * shape[1])
    number = (I64(2) * (z >> U64(40)).astype(I64) - I64(2**24 - 1)) * I64(isqrt(3 * a * 2**48 // c))
    return (number.astype(F64) * F64(2.0**-48)).astype(F32).reshape(shape)


class Weights:  # A matrix, its moments (M-37), and its rounded form for products (M-21, M-22)
    def __init__(self, model, name, w):
        self.model, self.w, self.m, self.v, self.operands = model, w, np.zeros_like(w), np.zeros_like(w), []
        model.state.update({f"{name}.{x}": ("f4", lambda x=x: getattr(self, x)) for x in "wmv"})
        self.rounded = fixed(w, 13)  # M-21: Wq × 2^s_W

    def step(self, gradient):  # M-37
        beta1, gamma1, c1, beta2, gamma2, c2, rate = self.model.factors
        g, tiny = F32(gradient), F32(2.0**-100)
        m = (beta1 * self.m) + (gamma1 * g)
        v = (beta2 * self.v) + (gamma2 * (g * g))
        self.m, self.v = np.where(np.abs(m) < tiny, F32(0), m), np.where(v < tiny, F32(0), v)
        d = np.clip((self.m * c1) / (np.sqrt(self.v * c2) + F32(2.0**-27)), F32(-4), F32(4))
        self.w = np.clip(self.w - (rate * d), F32(-64), F32(64))
        self.rounded = fixed(self.w, 13)

    def product(self, operand):  # M-21, for the rows of one position: f64(R) × 2^s, exact; F32(…) of it is val(R, s) of M-9
        self.operands.append(operand)
        return (operand @ self.rounded) * UNIT

    def product_back(self, dz):  # M-22
        d = fixed(dz, 13, most=30)
        back = d @ self.rounded.T
        self.step((np.concatenate(self.operands).T @ d) * UNIT)
        return back


class Normed(Weights):  # A linear map of the norm with taps (M-23, M-24)
    def __init__(self, model, name, w, taps=1):
        super().__init__(model, name, w)
        self.past, self.saved = np.zeros((taps - 1, model.streams, len(w) // taps), F64), []  # the oldest first

    def forward(self, x):  # M-23
        r = irms(x)
        self.saved.append((x * r, r))
        lines = [*self.past, quantise(x * r)]
        self.past = np.array(lines[1:]).reshape(self.past.shape)
        return self.product(np.concatenate(lines[::-1], axis=1))

    def backward(self, dz, dx):  # M-24
        values, (n, h) = F32(self.product_back(dz)), dx.shape
        du = values[:, :h].copy()
        for j in range(1, len(self.past) + 1):
            rows = max(n - j * self.model.streams, 0)
            du[:rows] = du[:rows] + values[n - rows :, j * h : (j + 1) * h]
        u, r = (np.concatenate(part) for part in zip(*self.saved, strict=True))
        return dx + norm_gradient(du, u, r)


class Layer:  # M-20, M-25: a norm with taps, a map in, what `mix` does, a map out that is added to x
    moving = ()  # what the positions before have left in it, but for the taps

    def __init__(self, model, spec, name, seed):
        self.model, self.streams, self.saved, h, hidden = model, spec["streams"], [], spec["width"], spec["hidden"]
        self.width, mixes = h, not isinstance(self, Perceptron)
        into, back, taps, wide, middle = ("in", "out", spec["taps"], 3 * h, h) if mixes else ("up", "down", 1, hidden, hidden)
        seed += 0 if mixes else 4
        self.inner = Normed(model, f"{name}.{into}", first(seed, 1, taps * h, (taps * h, wide)), taps)
        self.out = Weights(model, f"{name}.{back}", first(seed + 1, 1, 4 * middle, (middle, h)))
        if mixes:
            self.bias = Weights(model, f"{name}.bias", self.start(name, spec))
            model.state[f"{name}.taps"] = "i2", lambda: self.inner.past.reshape(-1, h)

    def forward(self, x):  # one position
        return x + F32(self.out.product(self.mix(F32(self.inner.forward(x)))))

    def backward(self, dx):  # a segment
        d = F32(self.out.product_back(dx))
        saved = (np.concatenate(part) for part in zip(*self.saved, strict=True))
        return self.inner.backward(self.mix_back(d, *saved), dx)

    def close(self):  # the end of a segment: what its backward pass needed is let go
        self.saved, self.inner.saved, self.inner.operands, self.out.operands = [], [], [], []


class Perceptron(Layer):  # M-33, M-34
    def mix(self, v):
        p = np.maximum(v, F32(0))
        self.saved.append((p,))
        return quantise((p * p) * F32(0.5))

    def mix_back(self, d, p):
        return d * np.where((p * p) * F32(0.5) < F32(16), p, F32(0))


class Recurrence(Layer):  # M-27 to M-29
    moving = ("h",)

    def start(self, name, spec):  # the first bias, M-20
        self.h = np.zeros((self.streams, self.width), F32)
        self.model.state[f"{name}.h"] = "f4", lambda: self.h
        return np.array([[4096 * i // self.width for i in range(self.width)]], F32) * F32(2.0**-10)

    def mix(self, v):  # M-27
        a, c, g = np.split(v, 3, axis=1)
        a, s, before = logistic(a + self.bias.w), logistic(g), self.h
        h = (a * before) + ((F32(1) - a) * c)
        self.h = h = np.where(np.abs(h) < F32(2.0**-100), F32(0), h)
        u = h * (r := irms(h))
        self.saved.append((a, c, g, s, before, u, r))
        return quantise(u * (g * s))

    def mix_back(self, d, a, c, g, s, before, u, r):  # M-28, M-29
        one, carried = F32(1), np.zeros_like(self.h)
        dg = (d * u) * (s * (one + g * (one - s)))
        dh = norm_gradient(d * (g * s), u, r)
        for t in reversed(range(0, len(dh), self.streams)):
            rows = slice(t, t + self.streams)
            dh[rows] = carried + dh[rows]
            carried = dh[rows] * a[rows]
        da = (dh * (before - c)) * (a * (one - a))
        self.bias.step(fixed(da, 20).sum(0, keepdims=True))
        return np.concatenate([da, dh * (one - a), dg], axis=1)


class Attention(Layer):  # M-30 to M-32. Axes are stream, head, position or distance, column
    moving = "keys", "values", "seen"

    def start(self, name, spec):
        self.heads, self.context, self.seen, self.t = spec["heads"], spec["context"], 0, 0
        c, self.d = self.context, self.width // self.heads
        self.factor = F32(isqrt(9 * 2**48 // (4 * self.d)) * 2.0**-24)
        self.keys, self.values = np.zeros((2, self.streams, self.heads, c + spec["segment_tokens"], self.d), F64)
        for x in ("keys", "values"):  # of the last C positions before the segment, then of its own
            kept = lambda x=x: np.swapaxes(getattr(self, x)[:, :, :c], 1, 2).reshape(-1, c, self.width)  # noqa: E731
            self.model.state[f"{name}.{x}"] = "i2", kept
        self.model.state[f"{name}.seen"] = "i8", lambda: self.seen
        return np.zeros((self.heads, c + 1), F32)

    def mix(self, v):  # M-30
        c, t = self.context, self.t
        q, k, value = (part.reshape(self.streams, self.heads, self.d) for part in np.split(v, 3, axis=1))
        rq, rk = irms(q), irms(k)
        query = quantise(q * rq)
        self.keys[:, :, c + t], self.values[:, :, c + t] = quantise(k * rk), quantise(value)
        keys, values = self.keys[:, :, t : t + c + 1], self.values[:, :, t : t + c + 1]  # j = C … 0
        score = ((keys @ query[..., None])[..., ::-1, 0] * (F64(self.factor) * UNIT * UNIT)).astype(F32) + self.bias.w
        score = np.where(np.arange(c + 1) <= self.seen, score, F32(-np.inf))
        w = np.rint(exp(score - score.max(-1, keepdims=True)) * F32(16384))  # 0 where the score is −∞
        total = w.astype(F64).sum(-1, keepdims=True)
        weighted = (w[..., None, ::-1].astype(F64) @ values)[..., 0, :]
        self.saved.append([part[None] for part in (q * rq, rq, k * rk, rk, query, w, total)])
        self.seen, self.t = min(c, self.seen + 1), t + 1
        return quantise(((weighted * UNIT) / total).astype(F32)).reshape(self.streams, self.width)

    def mix_back(self, d, *saved):  # M-31, M-32
        uq, rq, uk, rk, query, w, total = (np.moveaxis(part, 0, 2) for part in saved)
        c, t = self.context, self.t
        keys, values = self.keys[:, :, : c + t], self.values[:, :, : c + t]
        band = np.s_[:, :, (row := np.arange(t)[:, None]), c + row - np.arange(c + 1)]  # of t and t − j
        g = np.moveaxis(fixed(d, 13).reshape(t, self.streams, self.heads, self.d), 0, 2)
        share = w / total.astype(F32)
        p = np.rint(share * F32(16384)).astype(F64)
        pair = np.where(w == 0, F64(0), (g @ values.swapaxes(2, 3))[band])
        ds = share * (F32(pair * UNIT) - F32((p * pair).sum(-1, keepdims=True) * F64(2.0**-24)))
        self.bias.step(whole(ds * F32(2.0**30), 2**40).sum((0, 2)) * F64(2.0**-30))
        ys, ps = np.zeros((2, self.streams, self.heads, t, c + t), F64)
        ys[band], ps[band] = fixed(ds, 14, (2, 3)), p
        dq, dk, dv = ys @ keys, ys[..., c:].swapaxes(2, 3) @ query, ps[..., c:].swapaxes(2, 3) @ g
        dq, dk = (F32(line * UNIT) * self.factor for line in (dq, dk))
        lines = norm_gradient(dq, uq, rq), norm_gradient(dk, uk, rk), F32(dv) * F32(2.0**-14)
        return np.concatenate([np.moveaxis(line, 2, 0).reshape(len(d), self.width) for line in lines], axis=1)

    def close(self):
        super().close()
        for kept in (self.keys, self.values):
            kept[:, :, : self.context] = kept[:, :, self.t : self.t + self.context].copy()
        self.t = 0


class RangeDecoder:  # M-13, M-14
    def __init__(self, z):
        self.bytes, self.range, self.crc = iter(z), MASK, 0
        self.code = int.from_bytes(bytes(next(self.bytes, 0) for _ in range(8)), "big")

    def decode(self, frequencies, _):  # the token
        ends = np.cumsum(frequencies)
        total = int(ends[-1])
        share = self.range // total
        y = int(np.searchsorted(ends, min(self.code // share, total - 1), side="right"))
        low, frequency = int(ends[y] - frequencies[y]), int(frequencies[y])
        self.code, self.range = self.code - share * low, share * frequency
        require(self.code < self.range, "the code is damaged: it lies outside every interval")
        while self.range < 2**56:
            self.code, self.range = 256 * self.code + next(self.bytes, 0), 256 * self.range
        self.crc = zlib.crc32(struct.pack("<III", low, frequency, total), self.crc)
        return y


class Head:  # Bias, tables and match: what is added to the network's logits, and learns after every token
    def __init__(self, spec, state):
        m, b = spec["m"], spec["streams"]
        self.streams, self.has, self.octets, self.clock = b, spec["tables"] is not None, spec["octets"], 0
        n, self.rho = (7 if self.octets else 6, 6554) if self.has else (0, 655)  # M-39, M-41
        self.rates = [max(2621, isqrt(53281**2 // (n + 1))) for n in range(256)]  # M-46
        self.bias, self.gains, self.match_gains = np.zeros(m, I64), np.full((n, 32), 65536, I64), np.zeros(32, I64)
        self.tables = np.zeros((n, 2 ** spec["bits"] if self.has else 1, 64), I32)
        self.history, self.places = np.zeros(2**22 if self.has else 1, I64), np.zeros(2**18 if self.has else 0, I64)
        self.recent, self.fixed, self.state = self.history, None, state
        self.matches, self.contexts = np.zeros((b, 2), I64), self.no_contexts()
        names = "bias", "clock", "contexts", "gains", "history", "match_gains", "matches", "places", "tables"
        for name, kind in zip(names, ("i4", "i8", "u8", "i4", "u4", "i4", "i8", "i4", "i4"), strict=True):
            state[f"head.{name}"] = kind, lambda name=name: getattr(self, name)

    def no_contexts(self):  # (c_0 … c_6, word) of every stream
        return [[0] * (8 if self.octets else 6) for _ in range(self.streams)]

    def freeze(self):  # M-51
        self.recent, self.fixed = self.history.copy(), self.clock * self.streams
        self.state |= {"head.recent": ("u4", lambda: self.recent), "head.fixed": ("i8", lambda: self.fixed)}
        self.matches[self.matches[:, 0] >= self.fixed, 1] = 0

    def look_up(self, z, contexts, make):  # M-39: adds to z what the tables say; the rows found, each with all that learns
        found = []
        for table, gains, c in zip(self.tables, self.gains, contexts, strict=False):
            h = ((c ^ c >> 29) * GOLDEN) & MASK
            check, i = (h >> 8) % 2**31, (h >> 40) % len(table)
            if table[i, 0] != check and (table[i ^ 1, 0] == check or table[i ^ 1, 1] & 255 < table[i, 1] & 255):
                i ^= 1
            row = table[i]
            if row[0] != check:
                if not make:
                    continue
                row[:2] = check, 0
            count, listed = int(row[1]) & 255, int(row[1]) >> 8
            f = 4 * min(count.bit_length(), 7) + min(listed, 3)
            tokens, weights = row[2 : 2 + 2 * listed : 2], row[3 : 3 + 2 * listed : 2].astype(I64)
            z[tokens] += (gains[f] * weights) >> 16
            found.append((row, count, listed, gains, f, tokens, weights))
        return found

    def frequencies(self, z):  # M-42
        large = (exp((z - z.max()).astype(F32) * F32(2.0**-16)) * F32(2.0**40)).astype(I64)
        return (large.astype(F64) * (F64(2.0**30) / F64(large.sum()))).astype(I64) + 1

    def gradient(self, frequencies, y):  # M-44: and π
        p = frequencies.astype(F32) * (F32(1) / F32(frequencies.sum()))
        pi = (p * F32(65536)).astype(I64)
        p[y] = p[y] - F32(1)
        return p, pi

    def rehearse(self, z, contexts, y):  # M-52: a token again; the gradient of its logits
        z = z + self.bias
        self.look_up(z, contexts, make=False)
        self.move(contexts, y)
        return self.gradient(self.frequencies(z), y)[0]

    def code(self, z, b, decode, i):  # token i of the block, of stream b, from the network's logits, and their gradient
        z = z + self.bias
        found = self.look_up(z, self.contexts[b], make=self.fixed is None)
        mu, length = self.matches[b]
        x = int(self.history[mu % 2**22]) if length > 0 else None
        if x is not None:
            z[x] += self.match_gains[length]  # M-40
        frequencies = self.frequencies(z)
        y, p = decode(frequencies, i), F32(0)
        if self.fixed is None:
            p, pi = self.gradient(frequencies, y)
            self.learn(found, y, pi)
            if x is not None:  # M-45
                self.match_gains[length] += (1966 * ((65536 if x == y else 0) - pi[x]) + 32768) >> 16
        if self.has:
            self.move(self.contexts[b], y)
            self.follow(b, y)
        return y, p

    def learn(self, found, y, pi):  # M-45, M-46
        self.bias -= (self.rho * pi + 32768) >> 16
        self.bias[y] += self.rho
        for row, n, listed, gains, f, tokens, weights in found:
            rate, right = self.rates[n], tokens == y
            epsilon = np.where(right, I64(65536), I64(0)) - pi[tokens]
            push = ((epsilon * weights) >> 16).sum()
            row[3 : 3 + 2 * listed : 2] = np.clip(weights + ((rate * epsilon + 32768) >> 16), -(2**21), 2**21)
            gains[f] = min(max(gains[f] + ((459 * push + 32768) >> 16), -(2**19)), 2**19)
            row[1] = min(n + 1, 255) + 256 * listed
            if not right.any():
                phi = 88474 if listed == 0 else (rate * 179175) >> 16
                at = listed if listed < 31 else int(row[3::2].argmin())
                row[2 + 2 * at : 4 + 2 * at] = y, (phi * (65536 - pi[y])) >> 16
                row[1] += 256 * (listed < 31)

    def move(self, c, y):  # M-47
        x = y + 1
        if self.octets:
            c[7] = ((c[7] + x) * MIX) & MASK if 65 <= y <= 90 or 97 <= y <= 122 or y >= 128 else 0
            c[6] = (c[7] * 31 + x) & MASK
        for o in range(5, 0, -1):
            c[o] = ((c[o - 1] + x) * MIX + o) & MASK
        c[0] = (x * MIX) & MASK

    def follow(self, b, y):  # M-48: the match of stream b moves on; M-51 where nothing is learned any more
        streams, history, recent = self.streams, self.history, self.recent
        now, mu, length = self.clock * streams + b, *(int(i) for i in self.matches[b])
        end = now if self.fixed is None else self.fixed  # ages are counted from here
        recent[now % 2**22] = y
        follows = length > 0 and history[mu % 2**22] == y
        mu, length = (mu + streams, min(length + 1, 31)) if follows else (mu, 0)
        place = int(self.places[slot := ((self.contexts[b][5] * GOLDEN) & MASK) >> 46])
        if length == 0 and place > 0 and end - place < 2**22 - 25 * streams:
            pairs = ((place - (i + 1) * streams, now - i * streams) for i in range(24))
            unlike = (i for i, (old, new) in enumerate(pairs) if old < 0 or history[old % 2**22] != recent[new % 2**22])
            same = next(unlike, 24)
            mu, length = (place, same) if same >= 4 else (mu, 0)
        if self.fixed is None:
            self.places[slot] = (now + streams + 2**31) % 2**32 - 2**31
        elif mu >= self.fixed:
            length = 0
        self.matches[b] = mu, length


class Model:  # Embedding, layers, output and head, block by block
    def __init__(self, spec):
        m, h, seed = spec["m"], spec["width"], 4096 * spec["seed"]
        self.spec, self.streams, self.state, self.k, self.inputs = spec, spec["streams"], {}, 0, []
        self.before, self.powers = np.zeros(self.streams, I64), np.ones(2, F64)
        self.state.update(before=("i8", lambda: self.before), powers=("f8", lambda: self.powers))
        self.embedding = Weights(self, "embedding", first(seed, 1, 1, (m, h)))
        kinds = [Recurrence if spec["kind"] == "recurrent" else Attention] + [Perceptron] * (spec["hidden"] > 0)
        plan = enumerate(kinds * spec["layers"])
        self.layers = [kind(self, spec, f"layer{i}", seed + 8 * (i // len(kinds) + 1)) for i, kind in plan]  # M-20
        self.output, self.head = Normed(self, "output", np.zeros((h, m), F32)), Head(spec, self.state)
        self.passes, self.clock = spec["passes"], 0  # M-52
        self.kept = np.full((2 ** spec["history_bits"] // self.streams, self.streams), NOTHING)
        if self.passes:
            self.state |= {"replay.clock": ("i8", lambda: self.clock), "replay.tokens": ("u4", lambda: self.kept)}

    def prepare(self, corpus, steps):  # M-50
        size = self.spec["block_tokens"]
        while self.k < steps:
            for start in range(0, len(corpus), size):
                block = corpus[start : start + size]
                self.block(len(block), lambda _, i, block=block: int(block[i]), steps)  # what both sides hold is not decoded

    def train(self, gradients):  # M-38, then M-36
        betas = np.array([self.spec["beta1"], self.spec["beta2"]], F64) / F64(2**20)
        self.powers = self.powers * betas
        rate = F32(isqrt(self.spec["rate"] ** 2 * 2**40 // (2**20 + self.spec["decay"] * self.k)) * 2.0**-30)
        self.factors = [*np.stack([betas, F64(1) - betas, F64(1) / (F64(1) - self.powers)], axis=1).astype(F32).ravel(), rate]
        gradient = np.concatenate(gradients)
        dx = self.output.backward(gradient, np.zeros((len(gradient), self.spec["width"]), F32))
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
        total = np.zeros(self.embedding.w.shape, F64)
        np.add.at(total, np.concatenate(self.inputs), fixed(dx, 20))
        self.embedding.step(total)
        self.close()

    def close(self):  # the end of a segment
        self.inputs, self.output.saved, self.output.operands = [], [], []
        for layer in self.layers:
            layer.close()

    def logits(self, inputs):  # M-25, M-26, of one position
        self.inputs.append(inputs)
        x = self.embedding.w[inputs]
        for layer in self.layers:
            x = layer.forward(x)
        return whole(self.output.forward(x) * F64(65536), 2**22).astype(I64)

    def exchange(self, values=None):  # what the positions before have left in the layers, for `values` or zeros
        places = [(layer, name) for layer in self.layers for name in layer.moving]
        places += [(layer.inner, "past") for layer in self.layers]
        old = [getattr(*place) for place in places]
        for place, value in zip(places, values or [np.zeros_like(x) for x in old], strict=True):
            setattr(*place, value)
        return old

    def replay(self, rows):  # M-52: of the segment's tokens, by position and stream
        self.kept[(self.clock + np.arange(len(rows))) % len(self.kept)] = rows
        self.clock += len(rows)
        n, step, before = min(self.clock, len(self.kept)), self.spec["segment_tokens"], self.exchange()
        for i in range(self.k * self.passes, (self.k + 1) * self.passes if n >= step else 0):
            start = self.clock - n + int(hashed(i, 0)[0]) % (n - step + 1)
            inputs, contexts, gradients = np.zeros(self.streams, I64), self.head.no_contexts(), []
            self.exchange()
            for tokens in self.kept[np.arange(start, start + step) % len(self.kept)]:
                logits = self.logits(inputs)
                gradients.append(np.zeros(logits.shape, F32))
                for b in np.flatnonzero(tokens != NOTHING):
                    gradients[-1][b] = self.head.rehearse(logits[b], contexts[b], int(tokens[b]))
                inputs = np.where(tokens == NOTHING, 0, tokens)
            self.train(gradients)
        self.exchange(before)

    def block(self, length, decode, last=None):  # M-15, M-16: the next block's tokens, or as far as step `last`
        positions, step = -(-length // self.streams), self.spec["segment_tokens"]
        places = np.arange(self.streams * positions).reshape(self.streams, positions)
        there, tokens = places < length, np.zeros(places.shape, I64)
        for start in range(0, positions, step):
            if self.k == last:
                break
            segment, gradients = range(start, min(start + step, positions)), []
            for t in segment:
                logits = self.logits(self.before)  # M-17
                gradients.append(np.zeros(logits.shape, F32))  # M-35
                for b in np.flatnonzero(there[:, t]):
                    tokens[b, t], gradients[-1][b] = self.head.code(logits[b], b, decode, places[b, t])
                self.head.clock, self.before = self.head.clock + 1, tokens[:, t].copy()
            if self.head.fixed is None:
                self.train(gradients)
                self.replay(np.where(there, tokens, NOTHING).T[segment])
                self.k += 1
            else:
                self.close()
        return tokens.reshape(-1)[:length]

    def digest(self):  # M-49
        digest = hashlib.sha256(struct.pack("<Q", self.k))
        for name, (kind, value) in sorted(self.state.items()):
            array = np.ascontiguousarray(value(), dtype="<" + kind)
            digest.update(f"{name} <{kind} {array.shape}\n".encode("ascii"))
            digest.update(array.reshape(-1).view(np.uint8))
        return digest.digest()


class Reader:  # Records out of bytes (P-1)
    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def take(self, n):
        require(self.at + n <= len(self.data), "it ends too early")
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self):
        octets = [*self.take(1)]
        while octets[-1] > 127:
            octets += self.take(1)
        require(len(octets) < 10 and (octets[-1] or len(octets) == 1), "a varint is not in its shortest form")
        return sum((octet & 127) << 7 * i for i, octet in enumerate(octets))

    def record(self, *allowed):  # its type and its fields: integer, octets, text, SHA-256, capitals optional
        body, values = Reader(self.take(self.varint())), []
        kind = body.take(1)[0]
        require(kind in allowed, f"a record of type {kind} is not allowed there")  # F-5
        for field in FIELDS[kind]:
            there = body.take(1)[0] if field.isupper() else 1
            require(there < 2, "an optional field is neither there nor absent")
            read = {"i": body.varint, "s": lambda: body.take(32)}.get(field.lower(), lambda: body.take(body.varint()))
            values.append(None if not there else str(read(), "utf-8") if field == "t" else read())
        require(body.at == len(body.data), "a record has bytes after its last field")
        return kind, values


def read_spec(octets):  # M-10: all that makes the model, in one dictionary
    given = json.loads(str(octets, "ascii"))
    require(json.dumps(given, sort_keys=True, separators=(",", ":")).encode() == octets, "its spec is not canonical JSON")
    spec = {"block_tokens": 65536, "segment_tokens": 4096, "streams": 1, "numerics": "exact", "format": 0, "kind": "", "seed": 1}
    spec |= {"layers": 1, "width": 128, "hidden": 0, "taps": 2, "tables": {"bits": 16}, "heads": 4, "context": 64}
    spec |= {"rate": 3200, "decay": 1049, "beta1": 838861, "beta2": 1038090}
    known = set(spec)
    training, vocabulary = given.pop("training", {}), {"size": 256, **given.pop("vocabulary", {"kind": "bytes"})}
    start, replay = training.pop("start", None), training.pop("replay", None)
    spec |= given.pop("model") | training.pop("optimizer", {}) | given
    regime = training.pop("kind", "online")
    require(set(spec) == known and regime in ("online", "frozen") and not training, UNKNOWN)
    require(set(start or ()) in (set(), {"corpus", "steps"}) and set(replay or ()) <= {"passes", "history_bits"}, UNKNOWN)
    spec |= {"passes": 0, "history_bits": 20} if replay is None else {"passes": 1, "history_bits": 20, **replay}
    spec |= {"start": start, "frozen": regime == "frozen"}
    require(spec["format"] == 1 and spec["numerics"] == "exact" and spec["kind"] in ("recurrent", "transformer"), UNKNOWN)
    spec |= {"m": vocabulary["size"], "octets": vocabulary["kind"] == "bytes", "bits": (spec["tables"] or {}).get("bits", 16)}
    weights = spec["width"] * (2 * spec["m"] + spec["layers"] * ((3 * spec["taps"] + 1) * spec["width"] + 2 * spec["hidden"]))
    require(28 * weights + 1792 * 2 ** spec["bits"] <= 2**29, "its code needs more memory than 512 MiB")  # F-6, roughly
    return spec


def sha256_of(spec, width, octets=b""):  # M-12
    return hashlib.sha256((b"" if spec["octets"] else f"tokens m={spec['m']} width={width}\n".encode()) + octets)


def decode(data, start, out, corpora):  # F-1, F-2: the transmission of `data` that begins at `start`; returns where it ends
    reader, lengths, checks, z, kind = Reader(data, start), {}, [], bytearray(), HELLO
    require(reader.take(9) == MAGIC, "it is not a stored transmission, version 1")
    version, _, octets, announced, *_ = reader.record(HELLO)[1]
    require(zlib.crc32(data[start : reader.at]) == int.from_bytes(reader.take(4), "little"), "the CRC-32 of its head is wrong")
    require(version == 1, "the protocol's version is not 1")
    spec = read_spec(octets)
    prepared = reader.record(PREPARED)[1][0] if spec["start"] else None  # P-18
    while kind != END:
        kind, fields = reader.record(BLOCK, DATA, CHECK, END)
        if kind == BLOCK:
            require(fields[0] >= len(checks) and fields[0] not in lengths and fields[1] > 0, "a BLOCK does not fit")
            lengths[fields[0]] = fields[1]
        elif kind == DATA:
            z += fields[0]
        elif kind == CHECK:
            checks.append(fields)
    n, sha256, bits = fields
    require(zlib.crc32(data[start : reader.at]) == int.from_bytes(reader.take(4), "little"), "the CRC-32 of it all is wrong")
    require(announced in (None, n) and n == (checks[-1][0] if checks else 0), "END's n is not what was sent")
    require(len(z) == -(-bits // 8) and (not z or z[-1] % 2 ** (-bits % 8) == 0), "z has other bits than END says")  # P-16
    width = 1 if spec["m"] <= 2**8 else 2 if spec["m"] <= 2**16 else 4  # M-12
    whole_sha256, model, coder, position = sha256_of(spec, width), Model(spec), RangeDecoder(z), 0
    if spec["start"]:  # F-8
        named = (c for c in corpora if sha256_of(spec, width, c).hexdigest() == spec["start"]["corpus"])
        require(corpus := next(named, b""), f"no corpus given has the SHA-256 {spec['start']['corpus']}")
        model.prepare(np.frombuffer(corpus, f"<u{width}"), spec["start"]["steps"])
    if spec["frozen"]:
        model.head.freeze()
    require(prepared in (None, model.digest()), "PREPARED is not the digest of the state after the steps on the corpus")
    for i, (until, crc, digest) in enumerate(checks):
        length = lengths.pop(i, spec["block_tokens"])
        position, coder.crc, last = position + length, 0, i == len(checks) - 1
        require(until == position and (digest is not None) == (i % 16 == 15 or last), f"CHECK {i} is not that of its block")
        octets = model.block(length, coder.decode).astype(f"<u{width}").tobytes()
        require(coder.crc == crc, f"the CRC-32 of the triples of block {i} is wrong")
        require(digest is None or digest == model.digest(), f"the digest of the state after block {i} is wrong")
        whole_sha256.update(octets)
        out.write(octets)
    require(not lengths and whole_sha256.digest() == sha256, "the SHA-256 of the data is wrong, or a BLOCK has no CHECK")
    return reader.at


def main(name, *corpora):
    try:
        corpora = [np.fromfile(corpus, np.uint8).tobytes() for corpus in corpora]
        with open(name, "rb") as file, np.errstate(over="ignore", invalid="ignore"):
            data, at = file.read(), 0
            require(data, "it is empty")
            while at < len(data):  # F-3
                at = decode(data, at, sys.stdout.buffer, corpora)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as problem:
        sys.exit(f"decoder: {name} is refused: {problem}.")


if __name__ == "__main__":
    if "--about" in sys.argv:
        print(sys.implementation._multiarch, sys.byteorder, "endian", sys.version[:7], "NumPy", np.__version__, file=sys.stderr)
    main(*(a for a in sys.argv[1:] if a != "--about"))
