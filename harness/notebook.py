"""codelength in a notebook or a script: `from harness import transmit, compare`.

Alice, the wire and Bob are started as processes when first needed and stop with this one; running services may be named instead.
What is given is really transmitted: a result is a record of both services, and what Bob decoded.
"""

import atexit
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from harness.client import Client
    from harness.figures.shown import Shown

    Data = bytes | bytearray | memoryview | str | Path | Sequence[int] | NDArray[Any] | torch.Tensor
    """Octets, the text or the file to be sent, or token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture: a notebook shows it, `save` writes it by the suffix of the name, .svg or .png."""

    sheet: str

    @property
    def svg(self) -> str:
        """The picture as an SVG document."""
        from harness.figures.raster import standalone

        return standalone(self.sheet)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write the picture. Raises `ValueError` for another suffix than .svg or .png, or `OSError`."""
        from harness.figures.raster import png

        path = Path(path)
        if path.suffix not in (".svg", ".png"):
            raise ValueError(f"{path}: a figure ends in .svg or .png")
        path.write_bytes(png(self.sheet) if path.suffix == ".png" else self.svg.encode())
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One transmission. Figures are those of `codelength transmit --json`, which is `as_dict`; costs are Bob's, in bits [n]."""

    code: str
    tokens: int
    vocabulary_size: int
    steps: int
    f_bits: int
    nll_bits: float
    z_bits: int
    s0_bits: float
    sk_bits: float
    compression_rate: float | None
    bits_per_byte: float | None
    costs: "NDArray[np.float64]" = field(repr=False)
    as_dict: dict[str, Any] = field(repr=False)
    shown: "Shown" = field(repr=False)

    def plot(self) -> Figure:
        """Bits per byte as they fall, and cumulative bits."""
        return Comparison(results=(self,), others={}).plot()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Transmissions of one dataset, by S_k. others: bytes of gzip -9 and xz -9e, whose |f| is not charged."""

    results: tuple[Result, ...]
    others: dict[str, int]

    @property
    def best(self) -> Result:
        """The one with the least S_k."""
        return self.results[0]

    def plot(self) -> Figure:
        """Bits per byte as they fall, and cumulative bits, one line for each code."""
        from harness.reporting.write import sheet

        return Figure(sheet=sheet(self._report()))

    def save(self, path: str | Path) -> Path:
        """Write a report: .html, .svg, .png, .csv or .jsonl. Raises `ValueError` for another suffix, or `OSError`."""
        from harness.reporting.write import WRITERS

        path = Path(path)
        if path.suffix not in WRITERS:
            raise ValueError(f"{path}: a report ends in {', '.join(WRITERS)}")
        path.write_bytes(WRITERS[path.suffix](self._report()))
        return path

    def _report(self) -> Any:
        from harness.reporting.gather import Report

        report = Report(runs=[one.shown for one in self.results])
        report.yardsticks[self.results[0].as_dict["dataset"]["sha256"]] = self.others
        return report


def transmit(
    data: "Data",
    code: str | dict[str, Any] = "ngram",
    *,
    vocabulary_size: int | None = None,
    tokenizer: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    pretrained: Sequence[str | Path] = (),
    alice: str | None = None,
    bob: str | None = None,
) -> Result:
    """Send data from Alice to Bob; returns once Bob has all of it, verified.

    data: octets; a string, sent as UTF-8; a Path, whose file is sent; or token ids as a sequence, a NumPy array or a torch tensor
    of integers [n], then vocabulary_size is m, by default one more than the largest. code: a preset's name, or a specification.
    tokenizer: the file of one whose tokens are to be sent for octets; f is charged for it.
    plugins, pretrained: files of predictors of your own and directories of pretrained models, whose codes may be named; the
    services that load them start at the first call with these, and anew once they have changed.
    Raises `RequestError` for what a service refuses, `TransmissionError` where it is not verified, `ValueError` for other data,
    `StartError` where the services do not come up, a plugin's error in its text.
    """
    client = _client(alice, bob, plugins, pretrained)
    return _one(client, _post(client, data, vocabulary_size, tokenizer), code)


def compare(
    data: "Data",
    codes: Sequence[str] | None = None,
    *,
    vocabulary_size: int | None = None,
    tokenizer: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    pretrained: Sequence[str | Path] = (),
    alice: str | None = None,
    bob: str | None = None,
) -> Comparison:
    """Send the same data with several codes, all presets but heavy ones by default. Arguments and errors: see `transmit`."""
    from harness.commands import not_heavy
    from harness.reporting.gather import Report, add_from_services

    client = _client(alice, bob, plugins, pretrained)
    dataset = _post(client, data, vocabulary_size, tokenizer)
    names = not_heavy([one["name"] for one in client.codes()]) if codes is None else list(dict.fromkeys(codes))
    if not names:
        raise ValueError("compare needs at least one code")
    results = sorted((_one(client, dataset, name) for name in names), key=lambda one: one.sk_bits)
    beside = Report()
    add_from_services(beside, client, results[0].as_dict["transmission"])
    return Comparison(results=tuple(results), others=next(iter(beside.yardsticks.values()), {}))


class TransmissionError(Exception):
    """A transmission that was not verified; the text says why."""


def _one(client: "Client", dataset: str, code: str | dict[str, Any]) -> Result:
    from harness.reporting.gather import Report, add_from_services

    found = client.transmit(dataset, code)
    if found["state"] != "verified":
        raise TransmissionError(
            f"the transmission is {found['state']}: {(found['error'] or {}).get('detail', 'no reason is known')}"
        )
    report = Report()
    add_from_services(report, client, found["transmission"], compare=False)
    figures = ("steps", "nll_bits", "z_bits", "s0_bits", "sk_bits", "compression_rate", "bits_per_byte")
    return Result(
        code=found["code"]["name"],
        tokens=found["dataset"]["tokens"],
        vocabulary_size=found["dataset"]["vocabulary_size"],
        f_bits=found["f_bits"]["total"],
        costs=client.costs(found["transmission"]),
        as_dict=found,
        shown=report.runs[0],
        **{name: found[name] for name in figures},
    )


def _post(client: "Client", data: "Data", vocabulary_size: int | None, tokenizer: str | Path | None) -> str:
    """The id of the dataset at Alice."""
    import numpy as np

    if tokenizer is not None and not isinstance(data, Path | str | bytes | bytearray | memoryview):
        raise ValueError("a tokenizer is for octets, a text or a file")
    held = None if tokenizer is None else client.post_tokenizer(Path(tokenizer))["id"]
    if isinstance(data, Path):
        return str(client.post_file(data, tokenizer=held)["id"])
    if isinstance(data, str):
        data = data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        if vocabulary_size is not None:
            raise ValueError("octets have a vocabulary of 256; give token ids as a sequence or an array")
        return str(client.post_octets(bytes(data), "data", held)["id"])
    tokens = np.asarray(data)  # torch tensors give themselves as arrays
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise ValueError(f"token ids are integers in one dimension, not {tokens.dtype} in {tokens.ndim}")
    if tokens.size and int(tokens.min()) < 0:
        raise ValueError(f"token ids are not negative; the least is {int(tokens.min())}")
    size = vocabulary_size if vocabulary_size is not None else int(tokens.max()) + 1 if tokens.size else 1
    return str(client.post_tokens(tokens.tolist(), size, "data")["id"])


_clients: dict[tuple[object, ...], "Client"] = {}
"""By Alice's and Bob's URLs, or None, and what private services have loaded."""
_held: dict[tuple[object, ...], tuple[ExitStack, object]] = {}
"""What ends with a client, and the state of the files that it was started with."""


def _client(
    alice: str | None, bob: str | None, plugins: Sequence[str | Path] = (), pretrained: Sequence[str | Path] = ()
) -> "Client":
    """A client of the services named, or of private ones, started once for the same files as they are."""
    from harness.client import Client, Urls
    from harness.cluster import Cluster

    if (alice is None) != (bob is None):
        raise ValueError("alice and bob come together")
    if alice is not None and (plugins or pretrained):
        raise ValueError(
            "plugins and pretrained are for private services; running ones are told by CODELENGTH_PLUGINS, _PRETRAINED"
        )
    own = {"CODELENGTH_PLUGINS": _resolved(plugins), "CODELENGTH_PRETRAINED": _resolved(pretrained)}
    key, state = (alice, bob, *(paths for paths in own.values() if plugins or pretrained)), _state(own)
    if key in _clients and _held.get(key, (None, state))[1] != state:
        _close(key)
    if key not in _clients:
        if not _held:
            atexit.register(close)
        with ExitStack() as stack:
            if alice is None or bob is None:
                environment = {name: os.pathsep.join(map(str, paths)) for name, paths in own.items() if paths}
                cluster = stack.enter_context(Cluster(environment=environment))
                urls = Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)
            else:
                urls = Urls(alice=alice, bob=bob, wire=None)
            _clients[key] = stack.enter_context(Client(urls, os.environ.get("CODELENGTH_TOKEN")))
            _held[key] = stack.pop_all(), state
    return _clients[key]


def _resolved(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    found = tuple(Path(path).resolve() for path in paths)
    missing = [str(path) for path in found if not path.exists()]
    if missing:
        raise ValueError(f"{', '.join(missing)}: no such file")
    return found


def _state(own: dict[str, tuple[Path, ...]]) -> object:
    """What changes when a plugin, or a file of a pretrained model, is written anew."""
    files = [file for paths in own.values() for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return [(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files]


def _close(key: tuple[object, ...]) -> None:
    del _clients[key]
    _held.pop(key)[0].close()


def close() -> None:
    """Stop the private services, which otherwise stop with this process."""
    for key in list(_held):
        _close(key)
