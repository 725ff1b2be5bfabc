"""The predictor interface: p^(k)(x_t | x_<t), coded and trained segment by segment, in both directions by the same code.

A predictor sees a segment as T rows of B streams (B = 1 for the statistical models) and codes it row by row through the coder
it is given. Rows are the points at which it can stop, when a decoder lacks input, and go on later. Its state is a set of
named arrays, so that it can be stored, restored and compared. This module knows no model and no vocabulary.
"""

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shared.code.arithmetic import U8, U64
from shared.code.errors import StateError

U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]


class Coder(Protocol):
    """What a predictor needs of `shared.code.arithmetic.Encoder` and `Decoder`."""

    state: U64
    buffer: U8


class Predictor(ABC):
    """A model that codes tokens and learns from each.

    max_decisions: upper bound of coder decisions in one row of B tokens.
    steps: k, the number of segments learned from. frozen: whether p^(k) is fixed.
    """

    max_decisions: int
    steps: int = 0
    frozen: bool = False

    def code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        """Code rows `start` … of one segment; returns the row to go on from, T when the segment is complete.

        tokens: [T, B], read by an encoder and filled in by a decoder. lengths: [B], rows that stream b has (T or T - 1,
        or fewer for the last streams of a block). costs: [T, B], filled with −log2 p in units of 2^-24 bit.
        An encoder never stops early; a decoder stops where it would starve, and is called again with the row returned.
        """
        end = self._code(tokens, lengths, start, coder, costs)
        if end == len(tokens) and not self.frozen:
            self.steps += 1
        return end

    def freeze(self) -> None:
        """Fix p^(k), between two segments: what was learned stays as it is, the context (the tokens before) still moves.

        Tables, counts, weights, rates and the places in which matches are found are what was learned.
        """
        self.frozen = True

    @property
    def frequencies(self) -> I64 | None:
        """The integer frequencies [m] of the token coded last; None where a token is not one decision of the coder."""
        return None

    def notes(self) -> list[str]:
        """What somebody who trusts the result should know of the model's state, in sentences."""
        return []

    @abstractmethod
    def _code(self, tokens: U32, lengths: I64, start: int, coder: Coder, costs: U32) -> int:
        """Code rows from `start`, as `code` says."""

    @abstractmethod
    def _arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The live arrays that make up the state, of fixed shapes and types."""

    def state_bytes(self) -> bytes:
        """The state, canonical: per array its header and its little-endian contents, by name, after the step count."""
        return b"".join(self.state_parts())

    def state_parts(self) -> Iterator[bytes | memoryview]:
        """The same in parts, none of them a copy of an array; they change when the predictor goes on."""
        yield struct.pack("<Q", self.steps)
        for header, array in self._canonical():
            yield header
            yield array.reshape(-1).view(np.uint8).data

    def restore(self, data: bytes | memoryview) -> None:
        """Go back to `state_bytes`. Raises `StateError`, and changes nothing, if they are of another predictor."""
        view = memoryview(data)
        if len(view) < 8:
            raise StateError("it is too short for a predictor")
        position, found = 8, {}
        for header, array in self._canonical():
            end = position + len(header) + array.nbytes
            if view[position : position + len(header)] != header or end > len(view):
                raise StateError("it belongs to another predictor")
            name = header.split(b" ", 1)[0].decode()
            found[name] = np.frombuffer(view[position + len(header) : end], dtype=array.dtype).reshape(array.shape)
            position = end
        if position != len(view):
            raise StateError("bytes follow its end")
        self._assign(found)
        (self.steps,) = struct.unpack("<Q", view[:8])

    def _assign(self, saved: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put these values into the live arrays of the same names."""
        for name, live in self._arrays().items():
            live[...] = saved[name]

    def digest(self) -> bytes:
        """SHA-256 of `state_bytes`, 32 bytes, without building them."""
        digest = hashlib.sha256(struct.pack("<Q", self.steps))
        for header, array in self._canonical():
            digest.update(header)
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.digest()

    def _canonical(self) -> list[tuple[bytes, npt.NDArray[Any]]]:
        out = []
        for name, array in sorted(self._arrays().items()):
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            out.append((f"{name} {little.dtype.str} {little.shape}\n".encode("ascii"), little))
        return out
