"""Transmissions to report on: from the services, or from the JSON lines of an earlier report."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.client import Client, RequestError
from harness.comparison import others
from harness.figures.curve import Curve
from harness.figures.shown import SHOWN_TOKENS, Name, Shown, token_bytes

MOST_COMPARED_BYTES: Final = 64 << 20
_MOST_SINGLE_COSTS: Final = 4_000_000


class ReportError(Exception):
    """A file is no report, in a sentence."""


@dataclass(slots=True)
class Report:
    """What is reported. yardsticks: by a dataset's SHA-256, bytes by the name of another program."""

    runs: list[Shown] = field(default_factory=list)
    yardsticks: dict[str, dict[str, int]] = field(default_factory=dict)

    def by_dataset(self) -> dict[str, list[Shown]]:
        """The transmissions of each dataset, by S_k; what was not verified last."""
        found: dict[str, list[Shown]] = {}
        for run in self.runs:
            found.setdefault(run.record["dataset"]["sha256"], []).append(run)
        for mine in found.values():
            mine.sort(key=lambda run: (run.record["state"] != "verified", run.record["sk_bits"] or 0.0))
        return found


def add_from_services(report: Report, client: Client, identifier: str, *, compare: bool = True, sample: int = 0) -> None:
    """Ask both services about a transmission. sample: tokens for Bob to draw. Raises `RequestError` where neither knows it."""
    records: dict[Name, dict[str, Any]] = {}
    names: tuple[Name, ...] = ("alice", "bob")
    refused: RequestError | None = None
    for name in names:
        try:
            records[name] = client.record(name, identifier)
        except RequestError as error:
            refused = error
    if refused is not None and not records:
        raise refused
    run = Shown(identifier, records, curve_of(client, records["bob"]) if "bob" in records else None)
    if run.curve.positions[-1] > 0:
        run.text = client.decoded(identifier, 0, SHOWN_TOKENS)
    if sample and run.record["state"] == "verified":
        run.sample = client.sample(identifier, sample, None)
    report.runs.append(run)
    dataset = run.record["dataset"]
    wanted = compare and dataset["sha256"] not in report.yardsticks and run.record["reconstruction"]["verified"]
    if wanted and 0 < (dataset["bytes"] or 0) <= MOST_COMPARED_BYTES:
        report.yardsticks[dataset["sha256"]] = _yardsticks(client, identifier)


def curve_of(client: Client, record: dict[str, Any]) -> Curve:
    """A transmission's curve, from what Bob tells of single tokens, or of blocks where those are too many."""
    width = token_bytes(record["dataset"]["vocabulary_size"])
    if record["tokens_done"] <= _MOST_SINGLE_COSTS:
        return Curve.of_costs(client.costs(record["id"]), width)
    return Curve.of_blocks(client.blocks(record["id"]), width)


def _yardsticks(client: Client, identifier: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="codelength-report-") as directory:
        path = Path(directory) / "data"
        client.reconstruction(identifier, path, form="raw")
        return {one["name"]: one["bytes"] for one in others(path)}


def to_lines(report: Report) -> Iterator[str]:
    """A JSON object for each transmission, from which the same report can be made again."""
    for run in report.runs:
        curve = {"positions": run.curve.positions.tolist(), "bits": run.curve.bits.tolist(), "width": run.curve.width}
        whole = {
            "transmission": run.id,
            **{str(name): record for name, record in run.records.items()},
            "curve": curve,
            "text": run.text,
            "sample": run.sample,
            "others": report.yardsticks.get(run.record["dataset"]["sha256"], {}),
        }
        yield json.dumps(whole, ensure_ascii=False)


def add_from_lines(report: Report, lines: Iterable[str], name: str) -> None:
    """Take what `to_lines` wrote. name: of the file. Raises `ReportError`."""
    names: tuple[Name, ...] = ("alice", "bob")
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
            records: dict[Name, dict[str, Any]] = {}
            for one in names:
                if one in found:
                    records[one] = dict(found[one])
            curve = Curve(
                positions=np.array(found["curve"]["positions"], np.int64),
                bits=np.array(found["curve"]["bits"], np.float64),
                width=int(found["curve"]["width"]),
            )
            run = Shown(str(found["transmission"]), records, curve, found["text"], found.get("sample"))
            report.yardsticks[run.record["dataset"]["sha256"]] = dict(found["others"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ReportError(
                f"{name}, line {number}: is no line of a report; `codelength report -o FILE.jsonl` writes them"
            ) from None
        report.runs.append(run)
