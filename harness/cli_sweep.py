"""`codelength sweep`: a grid of transmissions, on this machine or on a Ray cluster, that goes on where it stopped."""

import os
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness import terminal
from harness.commands import AsJson, Plugin, Pretrained, Tokenizer, must_be_readable, prepare, use_own
from harness.terminal import FAILED, UNAVAILABLE, USAGE, emit, emit_json, fail

if TYPE_CHECKING:
    from harness.sweep.grid import Trial
    from harness.sweep.running import OpenPair

_COLUMNS: Final = ("dataset", "tokens", "code", "seed", "k", "S_k", "r_k", "net of |f|", "bits/byte", "z", "seconds", "")
_AXES: Final = ("size", "k", "compute")


def sweep(
    grid: Annotated[Path, typer.Argument(help="TOML: datasets, sizes, codes, specs, seeds, steps, corpus.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where the table is kept; GRID.sweep if not given.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster, HOST:PORT, or auto for the one on this node; RAY_ADDRESS says it too."),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Without Ray, in processes of this machine.")] = False,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs of Alice and Bob at once; one for every two cores if not given.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Make trials again that failed before.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw r_k in this file, .png or .svg.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Draw it against size, k or compute.", show_default="what the trials vary in")
    ] = None,
    as_json: AsJson = False,
    tokenizer: Tokenizer = None,
    plugin: Plugin = None,
    pretrained: Pretrained = None,
) -> None:
    """Transmit every dataset with every code, seed and k of GRID.

    One table comes of it, as JSON lines, CSV and Parquet. Finished trials are not made again: run it once more after an
    interruption, or after more was added to GRID.
    """
    die = partial(fail, as_json=as_json)
    if local and address is not None:
        die(USAGE, "--local and --address exclude each other")
    if not local:
        address = address or os.environ.get("RAY_ADDRESS") or None
    if against not in (None, *_AXES):
        die(USAGE, f"there is no axis {against!r}: {', '.join(_AXES)}")
    if plot is not None and (plot.suffix not in (".png", ".svg") or not plot.absolute().parent.is_dir()):
        die(USAGE, f"{plot}: a plot ends in .png or .svg, and its directory is there")
    if tokenizer is not None:
        must_be_readable(tokenizer, as_json=as_json)
    prepare()
    use_own(plugin, pretrained, as_json=as_json)
    from harness.cluster import StartError
    from harness.sweep.grid import Grid, GridError, trials
    from harness.sweep.table import Table, TableError

    place = output or Path(f"{grid.stem}.sweep")
    rows: list[dict[str, Any]] = []
    try:
        wanted = Grid.read(grid) if tokenizer is None else Grid.read(grid).by(tokenizer)
        with Table(place) as table:
            if table.dropped:
                terminal.say(f"{place}: the last row was cut short when it was written; its trial is made again")
            try:
                every = trials(wanted, grid.parent, place / "data")
                todo = [one for one in every if _to_do(table.get(one.key), retry=retry)]
                if len(todo) < len(every):
                    terminal.say(f"{len(every) - len(todo):,} of {len(every):,} trials have been made already")
                if todo:
                    _make(todo, table, address, pairs, local=local, said=len(every) - len(todo))
            finally:
                shutil.rmtree(place / "data", ignore_errors=True)
                written = table.write()
            rows = table.rows()
        if plot is not None:
            _plot(rows, against, plot)
    except GridError as error:
        die(USAGE, str(error))
    except TableError as error:
        die(FAILED, str(error))
    except StartError as error:
        die(UNAVAILABLE, str(error))
    except OSError as error:
        die(FAILED, f"{error.filename}: cannot be written: {(error.strerror or str(error)).lower()}")
    if as_json:
        emit_json({"files": [str(path) for path in written], "trials": rows})
    else:
        from harness.report import print_table

        print_table(table_rows(rows))
        emit("\n" + "\n".join(str(path) for path in written))
    if any(row["state"] != "verified" for row in rows):
        fail(FAILED, "not every trial was verified; --retry makes those again that failed")


def _to_do(row: dict[str, Any] | None, *, retry: bool) -> bool:
    return row is None or (retry and row["state"] != "verified")


def _make(todo: "list[Trial]", table: Any, address: str | None, pairs: int | None, *, local: bool, said: int) -> None:
    """Make trials on Ray where that is asked for or installed, else in processes of this machine."""
    from harness.sweep.running import sweep as run
    from shared.code.models import PRESETS

    kinds = {preset.model.kind: name for name, preset in reversed(PRESETS.items())}  # for a spec, one with the same kernels
    warm = list(dict.fromkeys(trial.code if trial.code in PRESETS else kinds[trial.spec.model.kind] for trial in todo))
    with ExitStack() as stack:
        open_pair: OpenPair
        if local or not _has_ray(address):
            from harness.sweep.pairs import LocalPair

            fit, where = max(1, (os.cpu_count() or 1) // 2), "processes of this machine"
            open_pair = partial(LocalPair, warm)
        else:
            from harness.sweep.rays import connected

            cluster = stack.enter_context(connected(address))
            fit, where = cluster.pairs, f"Ray at {address}" if address else "a local Ray"
            open_pair = partial(cluster.open_pair, warm)
        count = min(pairs or fit, len(todo))
        terminal.say(f"{len(todo):,} trials on {where}, {count} at once")
        run(todo, open_pair, count, table, said)


def _has_ray(address: str | None) -> bool:
    """Whether Ray is installed; where it is not, that is told, and is an end if a cluster was named."""
    from importlib.util import find_spec

    if find_spec("ray") is not None:
        return True
    if address is not None:
        fail(USAGE, "--address needs ray: pip install 'codelength[cluster]'")
    terminal.say("ray is not installed (pip install 'codelength[cluster]'); one machine does not need it")
    return False


def _plot(rows: list[dict[str, Any]], against: str | None, path: Path) -> None:
    from harness.sweep.picture import axis_of, draw

    axis = against or axis_of(rows)
    shown = draw(rows, axis, path)
    terminal.say(f"{path}: r_k against {axis}, {shown:,} of {len(rows):,} trials")


def table_rows(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table as it is printed."""
    from harness.report import in_bytes, rate

    out: list[tuple[str, ...]] = [_COLUMNS]
    for row in rows:
        verified = row["state"] == "verified"
        out.append(
            (
                row["dataset"],
                f"{row['tokens']:,}",
                row["code"],
                "–" if row["seed"] is None else str(row["seed"]),
                "online" if row["k"] is None else f"{row['k']:,}",
                in_bytes(row["sk_bits"]),
                rate(row["compression_rate"]),
                rate(row["compression_rate_net_of_f"]),
                "–" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}",
                in_bytes(row["z_bits"]),
                "–" if row["seconds_total"] is None else f"{row['seconds_total']:.1f}",
                row["state"] if verified else f"{row['state']}: {row['error']}",
            )
        )
    return out
