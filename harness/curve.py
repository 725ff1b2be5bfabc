"""`codelength curve`: S_k and r_k against k, and the online curve, every point a real transmission.

A frozen point is D under p^(k), both sides having trained k steps on a corpus. The online curve is one transmission, its bits
token by token. What is made is kept in a file, so that a curve that was interrupted goes on where it stopped.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.client import Client
from shared.code.models import spec_of
from shared.code.spec import BytesVocabulary, CodeSpec, IdsVocabulary, Start

_FORMAT: Final = 1
_PLACES: Final = 200
_FIRST: Final = 64  # before so many tokens single ones would be seen
_LAST_PART: Final = 10
_POINTS: Final = ("code", "assets", "k", "S_0", "S_k", "r_k", "net of |f|", "bits/byte", "z", "seconds", "")
_ONLINE: Final = ("code", "k", "S_0", "S", "bits/token", "last tenth", "EDL", "final model", "regret", "")

Code = str | dict[str, Any]
Say = Callable[[str], None]


class CurveError(Exception):
    """What was asked for makes no curve, or the file with earlier points cannot be used."""


def parse_steps(text: str) -> list[int]:
    """The steps in `0,10,100`, ascending, each once: each point goes on from the model of the one before. Raises `CurveError`."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdecimal() and len(part) < 13 for part in parts):
        raise CurveError(f"{text!r} is no list of steps; write 0,10,100")
    return sorted({int(part) for part in parts})


def label(code: Code) -> str:
    """How a code is called in tables and pictures."""
    if isinstance(code, str):
        return code
    model = code.get("model")
    return f"custom {model.get('kind')}" if isinstance(model, dict) else "custom"


def training_after(k: int, corpus: str | None, *, regime: str = "frozen") -> dict[str, Any]:
    """A point's training as a transmission is asked for. corpus: its SHA-256; k = 0 needs none."""
    return {"regime": regime, "steps": k, **({"corpus": corpus} if k else {})}


class Curve:
    """The points made so far, over one dataset, and the file they are kept in."""

    def __init__(self, client: Client, dataset: dict[str, Any], path: Path | None) -> None:
        self._client = client
        self._dataset = dataset
        self._path = path
        octets, size = dataset["vocabulary"] == "bytes", dataset["vocabulary_size"]
        self._vocabulary = BytesVocabulary() if octets else IdsVocabulary(size=size, tokenizer=dataset["tokenizer"])
        self.points: list[dict[str, Any]] = []
        self.online: list[dict[str, Any]] = []
        self._earlier: dict[str, list[dict[str, Any]]] = {"points": [], "online": []}
        if path is not None and path.exists():
            self._earlier = self._read(path)

    def frozen(self, codes: Iterable[Code], steps: Iterable[int], corpus: dict[str, Any] | None, say: Say) -> None:
        """Make the points of every code at every k that are not made yet."""
        for code in codes:
            for k in steps:
                start = Start(corpus=corpus["id"], steps=k) if corpus is not None and k else None
                spec = spec_of(code, self._vocabulary).with_training(frozen=True, start=start)
                point = self._known("points", spec)
                if point is None:
                    say(f"{label(code)} at k = {k:,} ...")
                    point = {**self._transmit(code, spec), "label": label(code), "k": k}
                self.points.append(point)
                self._write()

    def learning(self, codes: Iterable[Code], say: Say) -> None:
        """Make every code's online curve, and the cost of D under the model that has learned all of D."""
        for code in codes:
            spec = spec_of(code, self._vocabulary).with_training(frozen=False, start=None)
            found = self._known("online", spec)
            if found is None:
                say(f"{label(code)} online ...")
                result = self._transmit(code, spec)
                found = {**result, "label": label(code), **summary(self._client.costs(result["transmission"]))}
                if result["steps"]:
                    say(f"{label(code)} under its final model ...")
                    start = Start(corpus=self._dataset["sha256"], steps=result["steps"])
                    final = self._transmit(code, spec.with_training(frozen=True, start=start))
                    found["final_model_bits"] = final["nll_bits"]
                    found["regret_bits"] = found["nll_bits"] - final["nll_bits"]
            self.online.append(found)
            self._write()

    def as_json(self) -> dict[str, Any]:
        """What the file holds and `--json` prints."""
        return {"format": _FORMAT, "dataset": self._dataset, "points": self.points, "online": self.online}

    def _transmit(self, code: Code, spec: CodeSpec) -> dict[str, Any]:
        corpus, steps = (None, 0) if spec.start is None else (spec.start.corpus, spec.start.steps)
        training = training_after(steps, corpus, regime=spec.training.kind)
        return self._client.transmit(self._dataset["id"], code, training=training)

    def _known(self, kind: str, spec: CodeSpec) -> dict[str, Any] | None:
        return next((one for one in self._earlier[kind] if one["code"]["digest"] == spec.digest()), None)

    def _read(self, path: Path) -> dict[str, list[dict[str, Any]]]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != _FORMAT:
                raise CurveError(f"{path}: format {found['format']!r} is not {_FORMAT}, the one read here")
            if found["dataset"]["sha256"] != self._dataset["sha256"]:
                raise CurveError(f"{path}: its points are of another dataset, {found['dataset']['sha256']}")
            kept = {kind: [one for one in found[kind] if one["state"] == "verified"] for kind in ("points", "online")}
            for one in (*kept["points"], *kept["online"]):
                bytes.fromhex(one["code"]["digest"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CurveError(f"{path}: holds no points of a curve ({type(error).__name__})") from None
        return kept

    def _write(self) -> None:
        """Whole or not at all; points of other codes or steps stay."""
        if self._path is None:
            return
        document = self.as_json()
        for kind in ("points", "online"):
            made = {one["code"]["digest"] for one in document[kind]}
            document[kind] = document[kind] + [one for one in self._earlier[kind] if one["code"]["digest"] not in made]
        partial = self._path.with_name(f".{self._path.name}.partial")
        try:
            partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            raise CurveError(f"{self._path}: cannot be written: {(error.strerror or str(error)).lower()}") from None


def summary(costs: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The online curve from the tokens' costs in bits.

    tokens_seen and bits: at most 200 places, closer at the beginning, and the bits of all tokens before each. final_loss: the
    mean cost of the last tenth, each token coded before it is learned from. excess_description_length_bits: Σ − n · final_loss.
    """
    count = len(costs)
    if not count:
        return {"tokens_seen": [0], "bits": [0.0], "final_loss": None, "excess_description_length_bits": None}
    sums = np.cumsum(costs)
    places = np.unique(np.rint(np.geomspace(min(count, _FIRST), count, _PLACES)).astype(np.int64))
    part = max(1, count // _LAST_PART)
    final_loss = float(costs[-part:].sum()) / part
    return {
        "tokens_seen": places.tolist(),
        "bits": sums[places - 1].tolist(),
        "final_loss": final_loss,
        "excess_description_length_bits": float(sums[-1]) - count * final_loss,
    }


def segments(spec: CodeSpec, tokens: int) -> int:
    """Steps in one pass over a corpus of so many tokens."""
    whole, rest = divmod(tokens, spec.block_tokens)
    return whole * _steps_of(spec, spec.block_tokens) + _steps_of(spec, rest)


def _steps_of(spec: CodeSpec, tokens: int) -> int:
    rows = -(-tokens // spec.streams)
    return -(-rows // spec.segment_tokens)


def point_rows(points: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table of the frozen points."""
    from harness.report import in_bytes, rate

    rows = [
        (
            one["label"],
            in_bytes(one["f_bits"]["assets"]),
            f"{one['k']:,}",
            in_bytes(one["s0_bits"]),
            in_bytes(one["sk_bits"]),
            rate(one["compression_rate"]),
            rate(one["compression_rate_net_of_f"]),
            "–" if one["bits_per_byte"] is None else f"{one['bits_per_byte']:.4f}",
            in_bytes(one["z_bits"]),
            f"{one['seconds']['total']:.1f}",
            one["state"],
        )
        for one in points
    ]
    return [_POINTS, *rows]


def online_rows(online: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table of the online curves."""
    from harness.report import in_bytes

    def figure(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    rows = [
        (
            one["label"],
            f"{one['steps']:,}",
            in_bytes(one["s0_bits"]),
            in_bytes(one["sk_bits"]),
            figure(one["bits_per_token"]),
            figure(one["final_loss"]),
            in_bytes(one["excess_description_length_bits"]),
            in_bytes(one.get("final_model_bits")),
            in_bytes(one.get("regret_bits")),
            one["state"],
        )
        for one in online
    ]
    return [_ONLINE, *rows]
