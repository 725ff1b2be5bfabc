"""`codelength report`: finished transmissions as one file for others to read."""

import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from harness import terminal
from harness.commands import Given, chosen_presets, open_client, post, transmit_dataset
from harness.terminal import FAILED, USAGE, fail

_ID: Final = re.compile(r"[0-9a-f]{32}")
_DEFAULT: Final = Path("codelength-report.html")


def report(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="ID|FILE...", help="Transmissions by their ids, a report's .jsonl, or files to be transmitted first."
        ),
    ],
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="Write to this file: .html, .svg, .png, .csv or .jsonl; may be given several times."),
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Write TensorBoard's event files there too.")] = None,
    codes: Annotated[str, typer.Option(help="Presets for files, separated by commas.")] = "ngram",
    sample: Annotated[
        int, typer.Option(metavar="TOKENS", min=0, max=65_536, help="Let Bob draw so many from each model; see `sample`.")
    ] = 0,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite.")] = False,
    alice: Annotated[str | None, typer.Option(help="A running Alice's URL; for ids http://127.0.0.1:8001.")] = None,
    bob: Annotated[str | None, typer.Option(help="The running Bob's URL; for ids http://127.0.0.1:8002.")] = None,
) -> None:
    """Write a report: what the console shows, in one file."""
    from harness.reporting.write import WRITERS

    outputs = output or ([] if tensorboard else [_DEFAULT])
    for path in outputs:
        if path.suffix not in WRITERS:
            fail(USAGE, f"{path}: a report ends in {', '.join(WRITERS)}")
        if path.exists() and not force:
            fail(FAILED, f"{path}: exists; use -f to overwrite it, or -o to write elsewhere")
    if tensorboard is not None:
        _must_have_tensorboard()
    _write(targets, outputs, tensorboard, codes, sample, alice, bob)


def _must_have_tensorboard() -> None:
    from importlib.util import find_spec

    if find_spec("tensorboardX") is None:
        fail(USAGE, "--tensorboard needs tensorboardX: pip install 'codelength[tensorboard]'")


def _write(
    targets: list[str],
    outputs: list[Path],
    tensorboard: Path | None,
    codes: str,
    sample: int,
    alice: str | None,
    bob: str | None,
) -> None:
    from harness.reporting.gather import Report, ReportError, add_from_lines
    from harness.reporting.write import WRITERS

    found = Report()
    asked = [one for one in targets if not one.endswith(".jsonl")]
    for name in targets:
        if name.endswith(".jsonl"):
            try:
                with Path(name).open(encoding="utf-8") as lines:
                    add_from_lines(found, lines, name)
            except OSError as error:
                fail(USAGE, f"{name}: {(error.strerror or 'cannot be read').lower()}")
            except (ReportError, UnicodeDecodeError) as error:
                fail(USAGE, str(error) if isinstance(error, ReportError) else f"{name}: is no text")
    if asked:
        _ask(found, asked, codes, sample, alice, bob)
    try:
        for path in outputs:
            _whole(path, WRITERS[path.suffix](found))
            terminal.say(f"{path}: {terminal.octets(path.stat().st_size)}")
        if tensorboard is not None:
            from harness.reporting.events import write_events

            for run in found.runs:
                write_events(run, tensorboard)
            terminal.say(f"{tensorboard}: event files of {len(found.runs)} transmissions; tensorboard --logdir {tensorboard}")
    except OSError as error:
        fail(FAILED, f"{error.filename}: cannot be written: {(error.strerror or str(error)).lower()}")


def _ask(found: "object", asked: list[str], codes: str, sample: int, alice: str | None, bob: str | None) -> None:
    """Ids are asked of running services; files are transmitted, by those that are given or by private ones."""
    from harness.reporting.gather import Report, add_from_services

    assert isinstance(found, Report)
    ids = [one for one in asked if _ID.fullmatch(one) and not Path(one).exists()]
    for name in asked:
        if name not in ids and not Path(name).is_file():
            fail(USAGE, f"{name}: is neither a file nor a transmission's id, which has 32 hexadecimal digits")
    if ids and alice is None:
        alice, bob = "http://127.0.0.1:8001", "http://127.0.0.1:8002"
    with ExitStack() as stack:
        client = open_client(stack, alice, bob, None, warm=codes)
        add = partial(add_from_services, found, client, sample=sample)
        for name in asked:
            if name in ids:
                add(name)
                continue
            chosen = chosen_presets(client, codes)
            dataset = post(client, Path(name), Given(), as_json=False)
            for code in chosen:
                add(transmit_dataset(client, dataset["id"], code)["transmission"])


def _whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    partial_path = path.with_name(f".{path.name}.partial")
    try:
        partial_path.write_bytes(content)
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)
