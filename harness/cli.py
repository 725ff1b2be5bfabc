"""The command line. Results go to standard output, all else to standard error. See `codelength COMMAND --help`.

Exit status: 0 done; 1 not verified, damaged, or not to be written; 2 wrong usage or input; 3 services could not be started or
reached; 4 the ledger does not hold; 130 interrupted; 141 nobody reads standard output; 143 terminated. Imports are late, so
that --help answers at once.
"""

import os
import signal
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import cli_report, terminal
from harness.terminal import FAILED, LEDGER, TERMINATED, UNAVAILABLE, USAGE, emit, emit_json, fail

if TYPE_CHECKING:
    from harness.client import Client, RequestError
    from harness.cluster import Cluster
    from shared.code.spec import CodeSpec

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Alice sends Bob a dataset as an arithmetic code under a model both train as they go; every bit is counted.",
)


def _preset_names(incomplete: str) -> list[str]:
    from shared.code.models import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def _size(text: str) -> int:
    """A number of bytes: 4096, 64K, 10M, 2G."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in ("", "K", "M", "G", "T"):
        raise typer.BadParameter(f"{text!r} is no size; write 4096, 64K, 10M or 2G")
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]


app.command()(cli_report.report)

Names = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Files; none or - for standard input.")]
Code = Annotated[
    str, typer.Option(help="A preset, as `codelength codes` lists them, or a spec.json.", autocompletion=_preset_names)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")]
ToStdout = Annotated[bool, typer.Option("-c", "--stdout", help="Write to standard output, and keep the input.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite, and write compressed data to a terminal.")]
Keep = Annotated[bool, typer.Option("-k", "--keep", help="Keep the input. This is so anyway.")]
Remove = Annotated[bool, typer.Option("--rm", help="Remove the input once its output has been verified.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no summary.")]
MaxMemory = Annotated[int, typer.Option(metavar="SIZE", parser=_size, help="Refuse a code that needs more memory than this.")]
Alice = Annotated[str | None, typer.Option(help="A running Alice's URL, instead of private services.")]
Bob = Annotated[str | None, typer.Option(help="The running Bob's URL.")]
Wire = Annotated[str | None, typer.Option(help="The running wire's counts URL, if there is one.")]
Codes = Annotated[str | None, typer.Option(help="Presets, separated by commas; all if not given.")]
Form = Annotated[str, typer.Option(help="What FILE is: octets, json, npy or uint16.")]
Vocabulary = Annotated[int | None, typer.Option("--vocabulary-size", "-m", help="m, for npy and uint16.")]
_MEMORY = "512M"
_TOO_SLOW_FOR_A_DEMO = ("transformer", "transformer-tables")


@app.command()
def transmit(
    file: Annotated[Path, typer.Argument(help="The file that Alice sends.")],
    code: Code = "ngram",
    as_json: AsJson = False,
    send_f: Annotated[bool, typer.Option("--send-f", help="Send f's source too; Bob compares it with his.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write Bob's reconstruction to this file.")] = None,
    form: Form = "octets",
    vocabulary_size: Vocabulary = None,
    alice: Alice = None,
    bob: Bob = None,
    wire: Wire = None,
) -> None:
    """Transmit FILE from Alice to Bob, and print what it cost."""
    die = partial(fail, as_json=as_json)
    _must_be_readable(file, as_json=as_json)
    if (alice is None) != (bob is None):
        die(USAGE, "--alice and --bob come together")
    chosen = _code(code, as_json=as_json)
    with ExitStack() as stack:
        client = _client(stack, alice, bob, wire, as_json=as_json)
        dataset = _post(client, file, form, vocabulary_size, as_json=as_json)
        result = _transmit(client, dataset["id"], chosen, send_f=send_f, as_json=as_json)
        if save is not None and result["state"] == "verified":
            try:
                client.reconstruction(result["transmission"], save)
            except OSError as error:
                die(FAILED, f"{save}: cannot be written: {(error.strerror or str(error)).lower()}")
    if as_json:
        emit_json(result)
    else:
        from harness.report import ledger_table, print_table

        print_table(ledger_table([result]))
    for note in result["notes"]:
        terminal.say(note)
    if result["state"] != "verified":
        reason = (result["error"] or {}).get("detail", "no reason is known")
        fail(FAILED, f"the transmission is {result['state']}: {reason}")


@app.command()
def compare(
    file: Annotated[Path, typer.Argument(help="The file that Alice sends.")],
    codes: Codes = None,
    as_json: AsJson = False,
    form: Form = "octets",
    vocabulary_size: Vocabulary = None,
    alice: Alice = None,
    bob: Bob = None,
    wire: Wire = None,
) -> None:
    """Transmit FILE with every code, sort by S_k, and show gzip and xz beside them."""
    from harness import comparison

    die = partial(fail, as_json=as_json)
    _must_be_readable(file, as_json=as_json)
    if (alice is None) != (bob is None):
        die(USAGE, "--alice and --bob come together")
    with ExitStack() as stack:
        client = _client(stack, alice, bob, wire, as_json=as_json)
        names = _chosen_presets(client, codes, as_json=as_json)
        dataset = _post(client, file, form, vocabulary_size, as_json=as_json)
        results = [_transmit(client, dataset["id"], name, as_json=as_json) for name in names]
    others = comparison.others(file)
    _prepare()
    sizes = {name: comparison.stored_bytes(file, name) for name in names} if form == "octets" else {}
    if as_json:
        emit_json(comparison.as_json(results, sizes, others))
    else:
        from harness.report import print_table

        print_table(comparison.rows(results, sizes, others))
    if any(result["state"] != "verified" for result in results):
        fail(FAILED, "not every transmission was verified")


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help="The text to be sent; - for standard input.")],
    code: Code = "ngram",
    as_json: AsJson = False,
) -> None:
    """Show, token by token, the interval, the bits that become certain, and how Bob finds the token."""
    data = sys.stdin.buffer.read(1 << 16) if text == "-" else text.encode("utf-8", "surrogateescape")
    chosen = _code(code, as_json=as_json)
    _prepare()
    spec = _spec(chosen, as_json=as_json)
    from harness import explanation

    if spec.vocabulary.kind != "bytes":
        fail(USAGE, f"{code} is a code for token ids; text is octets", as_json=as_json)
    if len(data) > explanation.MAX_TOKENS:
        fail(USAGE, f"the text has {len(data):,} bytes; at most {explanation.MAX_TOKENS:,} are explained", as_json=as_json)
    from shared.service.kernels import ready_for

    ready_for(spec)
    found = explanation.explain(data, spec)
    if as_json:
        emit_json(explanation.as_json(found))
    else:
        emit("\n".join(explanation.lines(found)))


@app.command()
def compress(
    names: Names = None,
    code: Code = "mixing",
    output: Output = None,
    to_stdout: ToStdout = False,
    force: Force = False,
    keep: Keep = False,
    remove: Remove = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compress files to FILE.clz1."""
    from harness import filing
    from harness.files import Manners

    del keep
    names = names or ["-"]
    _one_output(names, output, to_stdout, as_json)
    chosen = _code(code, as_json=as_json)
    _prepare()
    spec = _spec(chosen, as_json=as_json)
    if spec.vocabulary.kind != "bytes":
        fail(USAGE, f"{code} is a code for token ids; files are octets", as_json=as_json)
    manners = Manners(output=output, to_stdout=to_stdout, force=force, remove=remove)
    work = partial(filing.compress, spec=spec, code=code if isinstance(chosen, str) else "", manners=manners, quiet=quiet)
    _, status = filing.each(names, work, as_json=as_json)
    raise typer.Exit(status)


@app.command()
def decompress(
    names: Names = None,
    output: Output = None,
    to_stdout: ToStdout = False,
    force: Force = False,
    keep: Keep = False,
    remove: Remove = False,
    quiet: Quiet = False,
    max_size: Annotated[
        int | None, typer.Option(metavar="SIZE", parser=_size, help="Write no more than this, for each file.")
    ] = None,
    max_memory: MaxMemory = _MEMORY,  # type: ignore[assignment]
    as_json: AsJson = False,
) -> None:
    """Decompress FILE.clz1 to FILE; every block is checked before it is written."""
    from harness import filing
    from harness.files import Manners

    del keep
    names = names or ["-"]
    _one_output(names, output, to_stdout, as_json)
    _prepare()
    manners = Manners(output=output, to_stdout=to_stdout, force=force, remove=remove)
    work = partial(filing.decompress, manners=manners, max_bytes=max_size, max_model_bytes=max_memory, quiet=quiet)
    _, status = filing.each(names, work, as_json=as_json)
    raise typer.Exit(status)


@app.command(name="test")
def verify(
    names: Names = None,
    quiet: Quiet = False,
    max_memory: MaxMemory = _MEMORY,  # type: ignore[assignment]
    as_json: AsJson = False,
) -> None:
    """Decode files and verify them; write nothing."""
    from harness import filing

    _prepare()
    work = partial(filing.test, max_model_bytes=max_memory, quiet=quiet)
    results, status = filing.each(names or ["-"], work, as_json=as_json)
    if not (as_json or quiet):
        for result in results:
            if "error" not in result:
                size = sum(one["bytes"] for one in result["transmissions"])
                emit(f"{result['file']}: verified, {terminal.octets(size)}")
    raise typer.Exit(status)


@app.command(name="list")
def list_files(names: Names = None, as_json: AsJson = False) -> None:
    """Show what files say of themselves, without decoding them."""
    from harness import filing

    results, status = filing.each(names or ["-"], filing.scan, as_json=as_json)
    rows = filing.list_table(results)
    if not as_json and len(rows) > 1:
        from harness.report import print_table

        print_table(rows)
    raise typer.Exit(status)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Does this machine compute f exactly? Recompute the golden vectors, and print what computed them."""
    _prepare()
    from harness import examination

    report = examination.examine()
    if as_json:
        emit_json(report)
    else:
        emit("\n".join(examination.report(report)))
    if not report["exact"]:
        fail(FAILED, "this machine does not compute f exactly; do not trust its transmissions, and please report this")


@app.command()
def demo(
    codes: Annotated[
        str | None, typer.Option(help="Presets, separated by commas; all but the transformers, a minute each, if not given.")
    ] = None,
    stay: Annotated[
        bool | None,
        typer.Option(
            "--stay/--no-stay", help="Serve the console too, and leave all up until Ctrl-C; so on a terminal with a desktop."
        ),
    ] = None,
    alice: Alice = None,
    bob: Bob = None,
    wire: Wire = None,
) -> None:
    """Transmit a sample text with the presets, and print the ledger."""
    from harness.sample import sample_text

    data = sample_text()
    desktop = terminal.has_desktop()
    if stay is None:
        stay = desktop and alice is None
    elif stay and alice is not None:
        fail(USAGE, "--stay is for services that this command starts; those at --alice and --bob stay anyway")
    terminal.say("Starting Alice, the wire and Bob ..." if alice is None else f"Waiting for {alice} and {bob} ...")
    with ExitStack() as stack:
        cluster = _cluster(stack, console_port=_console_port() if stay else None) if alice is None or bob is None else None
        client = _client(stack, alice, bob, wire, patience=None, cluster=cluster)
        names = _chosen_presets(client, codes, but=_TOO_SLOW_FOR_A_DEMO)
        dataset = client.post_octets(data, "pydoc_data.topics")
        if cluster is not None and stay:
            page = f"{cluster.console}/data/{dataset['sha256']}"
            terminal.say(f"Watch it at {page}")
            if desktop:
                import webbrowser

                webbrowser.open(page)
        results = [_transmit(client, dataset["id"], name) for name in names]
        _show_demo(data, dataset, results)
        if cluster is not None and stay:
            _stay(cluster)
    if any(result["state"] != "verified" for result in results):
        fail(FAILED, "not every transmission was verified")


def _show_demo(data: bytes, dataset: dict[str, Any], results: list[dict[str, Any]]) -> None:
    from harness.report import explain_table, ledger_table, print_table

    emit(f"The sample: Python's own manual pages, {len(data):,} bytes, SHA-256 {dataset['sha256']}\n")
    print_table(ledger_table(results))
    emit(explain_table())


def _stay(cluster: "Cluster") -> None:
    """Leave everything up until Ctrl-C, which is how this is meant to end."""
    import time

    terminal.say(
        f"Alice, the wire, Bob and the console stay up: {cluster.console}\nCtrl-C stops them; what they hold goes with them."
    )
    try:
        while all(cluster.process(name).poll() is None for name in ("alice", "bob", "wire", "console")):
            time.sleep(0.5)
        fail(UNAVAILABLE, "one of the services has ended")
    except KeyboardInterrupt:
        terminal.say("\nStopping ...")


def _console_port() -> int:
    port = os.environ.get("CODELENGTH_CONSOLE_PORT", "8000")
    if not port.isdecimal() or int(port) > 65535:
        fail(USAGE, f"CODELENGTH_CONSOLE_PORT: {port!r} is no port")
    return int(port)


@app.command()
def codes(
    as_json: AsJson = False,
    alice: Annotated[str | None, typer.Option(help="Ask a running Alice, and print |f| as measured there.")] = None,
) -> None:
    """List the presets."""
    if alice is not None:
        with ExitStack() as stack:
            found = _client(stack, alice, alice, None, as_json=as_json).codes()
    else:
        _prepare()
        from harness.report import local_codes

        found = local_codes()
    if as_json:
        emit_json({"codes": found})
    else:
        width = max(len(code["name"]) for code in found)
        for code in found:
            emit(f"{code['name']:<{width}} |f| = {code['f_bits']['total'] / 8:>8,.0f} bytes   {code['summary']}")


@app.command()
def serve(service: Annotated[str, typer.Argument(help="alice, bob, wire or console")]) -> None:
    """Run one service in the foreground. CODELENGTH_* variables configure it (see the README)."""
    modules = {"alice": "alice", "bob": "bob", "wire": "harness.wire", "console": "harness.console"}
    if service not in modules:
        fail(USAGE, f"there is no service {service!r}: alice, bob, wire or console")
    os.execv(sys.executable, [sys.executable, "-m", modules[service]])  # noqa: S606 - becomes the service


def _prepare() -> None:
    """Say where compiled kernels lie, before numba is imported."""
    from shared.service.kernels import prepare_kernel_cache

    try:
        prepare_kernel_cache()
    except OSError as error:
        fail(
            FAILED,
            f"compiled kernels cannot be kept in {error.filename}: {(error.strerror or str(error)).lower()}; "
            "set CODELENGTH_CACHE_DIRECTORY",
        )


def _must_be_readable(file: Path, *, as_json: bool) -> None:
    if not file.is_file():
        fail(USAGE, f"{file}: no such file" if not file.exists() else f"{file}: not a regular file", as_json=as_json)
    if not os.access(file, os.R_OK):
        fail(USAGE, f"{file}: cannot be read", as_json=as_json)


def _one_output(names: list[str], output: Path | None, to_stdout: bool, as_json: bool) -> None:
    if output is not None and to_stdout:
        fail(USAGE, "-o and -c exclude each other", as_json=as_json)
    if output is not None and len(names) > 1:
        fail(USAGE, f"-o names one output, but there are {len(names)} inputs; use -c to join them", as_json=as_json)
    if as_json and (to_stdout or (output is None and "-" in names)):
        fail(USAGE, "standard output cannot carry both the data and --json; use -o", as_json=as_json)


def _code(code: str, *, as_json: bool) -> str | dict[str, Any]:
    """A preset's name as it is; a spec file's contents."""
    if not code.endswith(".json"):
        return code
    import json

    try:
        fields = json.loads(Path(code).read_bytes())
    except OSError as error:
        fail(USAGE, f"{code}: {(error.strerror or 'cannot be read').lower()}", as_json=as_json)
    except (ValueError, RecursionError):
        fail(USAGE, f"{code}: is not JSON", as_json=as_json)
    if not isinstance(fields, dict):
        fail(USAGE, f"{code}: is no code specification, which is a JSON object", as_json=as_json)
    return fields


def _chosen_presets(client: "Client", codes: str | None, *, but: tuple[str, ...] = (), as_json: bool = False) -> list[str]:
    """The presets named in `codes`, each once; where it is None, all that Alice has, save `but`."""
    known = [one["name"] for one in client.codes()]
    if codes is None:
        return [name for name in known if name not in but]
    names = [name.strip() for name in codes.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        said = f"no preset is called {', '.join(unknown) or 'so'}; there are {', '.join(known)}"
        fail(USAGE, said, as_json=as_json, slug="unknown-code")
    return list(dict.fromkeys(names))


def _spec(code: str | dict[str, Any], *, as_json: bool) -> "CodeSpec":
    from shared.channel.errors import describe
    from shared.code.errors import InputError
    from shared.code.models import spec_of

    try:
        return spec_of(code)
    except InputError as error:
        fail(USAGE, str(error), as_json=as_json, slug=describe(error).slug)


def _cluster(stack: ExitStack, *, as_json: bool = False, console_port: int | None = None) -> "Cluster":
    """Private services, with the console where a port is given for it."""
    from harness.cluster import Cluster, StartError

    try:
        return stack.enter_context(Cluster(console_port=console_port))
    except StartError as error:
        fail(UNAVAILABLE, str(error), as_json=as_json)


def _client(
    stack: ExitStack,
    alice: str | None,
    bob: str | None,
    wire: str | None,
    *,
    as_json: bool = False,
    patience: float | None = 5.0,
    cluster: "Cluster | None" = None,
) -> "Client":
    import time

    from harness.client import Client, RequestError, Urls
    from harness.cluster import StartError, wait_ready

    try:
        if alice is not None and bob is not None:
            deadline = time.monotonic() + 180
            for url in (alice, bob, *([wire] if wire else [])):
                wait_ready(url, deadline, patience=patience)
            urls = Urls(alice=alice, bob=bob, wire=wire)
        else:
            cluster = cluster or _cluster(stack, as_json=as_json)
            urls = Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)
    except StartError as error:
        fail(UNAVAILABLE, str(error), as_json=as_json)
    client = stack.enter_context(Client(urls, os.environ.get("CODELENGTH_TOKEN")))

    def told(_: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RequestError):
            fail(_status(error), str(error), as_json=as_json, slug=error.slug)

    stack.push(told)
    return client


def _post(client: "Client", file: Path, form: str, vocabulary_size: int | None, *, as_json: bool) -> dict[str, Any]:
    from harness.client import FORMS, RequestError

    if form not in FORMS:
        fail(USAGE, f"there is no form {form!r}: {', '.join(FORMS)}", as_json=as_json)
    try:
        return client.post_file(file, form, vocabulary_size)
    except RequestError as error:
        fail(_status(error), f"{file}: {error}", as_json=as_json, slug=error.slug)


def _transmit(
    client: "Client", dataset: str, code: str | dict[str, Any], *, send_f: bool = False, as_json: bool = False
) -> dict[str, Any]:
    from harness.client import LedgerError, RequestError

    with terminal.Progress(code if isinstance(code, str) else "custom", "tokens") as progress:

        def show(record: dict[str, Any]) -> None:
            progress.update(record["tokens_done"], record["dataset"]["tokens"], record["state"])

        try:
            return client.transmit(dataset, code, send_f=send_f, progress=show)
        except RequestError as error:
            fail(_status(error), str(error), as_json=as_json, slug=error.slug)
        except LedgerError as error:
            fail(LEDGER, f"the ledger does not hold: {error}", as_json=as_json)


def _status(error: "RequestError") -> int:
    """Whether the caller was wrong, or a service not there, not ready, or full."""
    return UNAVAILABLE if error.slug in ("unavailable", "busy", "storage-full") else USAGE


def main() -> None:
    """The entry point."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that nothing half-made is left
    app()


if __name__ == "__main__":
    main()
