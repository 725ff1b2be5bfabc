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

from harness import cli_report, cli_sweep, studies, terminal
from harness.commands import (
    Alice,
    AsJson,
    Bob,
    Changes,
    Code,
    CodeOrAuto,
    Column,
    Corpus,
    FileTokenizer,
    FileTokenizers,
    Form,
    Given,
    MaxMemory,
    MaxSize,
    MaxTraining,
    Plugin,
    Pretrained,
    Regime,
    Tokenizer,
    Vocabulary,
    Wire,
    bench_codes,
    changed,
    check_ranks,
    check_regime,
    chosen_code,
    chosen_presets,
    must_be_readable,
    names_in,
    open_client,
    own_code,
    parse_channel,
    post,
    prepare,
    presets_of,
    readable,
    spec_of,
    start_cluster,
    status_of,
    transmit_dataset,
    use_own,
    vocabulary_of,
)
from harness.epilogs import epilog
from harness.terminal import FAILED, LEDGER, TERMINATED, UNAVAILABLE, USAGE, emit, emit_json, fail

if TYPE_CHECKING:
    from harness.cluster import Cluster

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Alice sends Bob a dataset as an arithmetic code under a model both train as they go; every bit is counted.",
)


Names = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Files; none or - for standard input.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")]
ToStdout = Annotated[bool, typer.Option("-c", "--stdout", help="Write to standard output, and keep the input.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite, and write compressed data to a terminal.")]
Keep = Annotated[bool, typer.Option("-k", "--keep", help="Keep the input. This is so anyway.")]
Remove = Annotated[bool, typer.Option("--rm", help="Remove the input once its output has been verified.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no summary.")]
Channel = Annotated[str | None, typer.Option(help='Simulate a worse channel: "bandwidth=9600bit/s,latency=80ms".')]
Codes = Annotated[str | None, typer.Option(help="Presets, separated by commas; all but those for a GPU if not given.")]
Corpora = Annotated[list[Path] | None, typer.Option("--corpus", help="What the files start from; may be given several times.")]
_MEMORY, _TRAINING = "512M", "64M"
_TOO_SLOW_FOR_A_DEMO = ("ensemble", "transformer", "transformer-tables")


@app.command()
def transmit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file that Alice sends.")],
    code: CodeOrAuto = "ngram",
    changes: Changes = None,
    as_json: AsJson = False,
    send_f: Annotated[bool, typer.Option("--send-f", help="Send f's source too; Bob compares it with his.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write Bob's reconstruction to this file.")] = None,
    corpus: Corpus = None,
    steps: Annotated[int, typer.Option(min=0, help="Segments of the corpus that both sides train on first, k.")] = 0,
    regime: Regime = None,
    form: Form = "octets",
    vocabulary_size: Vocabulary = None,
    column: Column = None,
    tokenizer: Tokenizer = None,
    alice: Alice = None,
    bob: Bob = None,
    wire: Wire = None,
    channel: Channel = None,
    ranks: Annotated[
        str | None, typer.Option(metavar="A[,B]", help="Processes that share a network's streams, at Alice and at Bob.")
    ] = None,
    plugin: Plugin = None,
    pretrained: Pretrained = None,
) -> None:
    """Transmit FILE from Alice to Bob, and print what it cost."""
    die = partial(fail, as_json=as_json)
    must_be_readable(file, as_json=as_json)
    simulation = parse_channel(channel, private=alice is None, as_json=as_json)
    check_regime(regime, corpus, steps, as_json=as_json)
    given = Given.checked(form, vocabulary_size, column, tokenizer, as_json=as_json)
    use_own(plugin, pretrained, as_json=as_json)
    code = own_code(context, code, pretrained)
    chosen = changed(chosen_code(code, as_json=as_json), changes, as_json=as_json)
    check_ranks(ranks, chosen, private=alice is None, as_json=as_json)
    with ExitStack() as stack:
        client = open_client(stack, alice, bob, wire, warm=presets_of(chosen), channel=channel, ranks=ranks, as_json=as_json)
        dataset = post(client, file, given, as_json=as_json)
        if changes and isinstance(chosen, dict) and not code.endswith(".json"):
            chosen["vocabulary"] = vocabulary_of(dataset)
        training: dict[str, Any] = {} if regime is None else {"regime": regime}
        if corpus is not None:
            held = post(client, corpus, given, as_corpus=True, as_json=as_json)
            training |= {"corpus": held["id"], "steps": steps}
        result = transmit_dataset(client, dataset["id"], chosen, send_f=send_f, training=training, as_json=as_json)
        if channel is not None and simulation is not None:
            result["channel"] = {"description": channel, "seconds": simulation.compare(result)}
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
        if "channel" in result:
            times = result["channel"]["seconds"]
            emit(f"over this channel {times['with_model']:.1f} s with the model, {times['without_model']:.1f} s without")
    for note in result["notes"]:
        terminal.say(note)
    for one in result["choice"] or ():
        expected = "time ran out" if one["sk_bits"] is None else f"S_k of about {one['sk_bits'] / 8:,.0f} bytes"
        terminal.say(f"auto: {one['code']}: {expected}, after {one['tokens']:,} tokens in {one['seconds']:.1f} s")
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
    column: Column = None,
    tokenizer: Tokenizer = None,
    alice: Alice = None,
    bob: Bob = None,
    wire: Wire = None,
    plugin: Plugin = None,
    pretrained: Pretrained = None,
) -> None:
    """Transmit FILE with every code, and sort by S_k.

    gzip and xz stand beside them.
    """
    from harness import comparison

    must_be_readable(file, as_json=as_json)
    given = Given.checked(form, vocabulary_size, column, tokenizer, as_json=as_json)
    use_own(plugin, pretrained, as_json=as_json)
    with ExitStack() as stack:
        client = open_client(stack, alice, bob, wire, warm=codes, as_json=as_json)
        names = chosen_presets(client, codes, as_json=as_json)
        dataset = post(client, file, given, as_json=as_json)
        results = [transmit_dataset(client, dataset["id"], name, as_json=as_json) for name in names]
    others = comparison.others(file)
    prepare()
    sizes = {name: comparison.stored_bytes(file, name, tokenizer) for name in names} if form == "octets" else {}
    if as_json:
        emit_json(comparison.as_json(results, sizes, others))
    else:
        from harness.report import print_table

        print_table(comparison.rows(results, sizes, others))
    if any(result["state"] != "verified" for result in results):
        fail(FAILED, "not every transmission was verified")


@app.command()
def bench(
    data: Annotated[Path, typer.Option(help="A directory of files, those in directories below included.")],
    codes: Annotated[
        str | None, typer.Option(help="Presets, maybe with :int8, :float64 or :native; all presets if not given; - for none.")
    ] = None,
    files: Annotated[str | None, typer.Option(help="Names of files, separated by commas; all if not given.")] = None,
    peers: Annotated[
        str | None, typer.Option(help="Names of peers, separated by commas; all installed ones if not given.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with further peers: [[peer]] name, compress, decompress.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every competitor over a file; the fastest counts.")] = 1,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what OUT already has.")] = False,
    out: Annotated[Path, typer.Option(help="Where LABEL.json, LABEL.md and LABEL.svg are written.")] = Path("bench"),
    label: Annotated[str | None, typer.Option(help="The name of the results; the directory's if not given.")] = None,
    tokenizer: Tokenizer = None,
    as_json: AsJson = False,
) -> None:
    """Measure codes and other compressors over a directory.

    Sizes, speeds and memory; tables and a picture.
    """
    from harness import bench as benching
    from harness import pareto
    from harness import peers as others
    from harness.client import LedgerError, RequestError
    from harness.cluster import StartError

    die = partial(fail, as_json=as_json)
    chosen, known = bench_codes(codes, as_json=as_json), list(others.PEERS)
    try:
        if config is not None:
            known += others.read(config)
        missing = [peer.name for peer in known if not peer.installed]
        wanted = [peer.name for peer in known] if peers is None else names_in(peers)
        unknown = [name for name in wanted if name not in {peer.name for peer in known}]
        if unknown:
            die(USAGE, f"no peer is called {', '.join(unknown)}; there are {', '.join(peer.name for peer in known)}")
        rivals = [peer for peer in known if peer.name in wanted and peer.installed]
        for name in missing:
            terminal.say(f"not installed: {name}")
        name = label or data.resolve().name
        found = benching.files(data, None if files is None else names_in(files))
        if tokenizer is not None:
            must_be_readable(tokenizer, as_json=as_json)
        with benching.Bench(out / f"{name}.json", terminal.say, tokenizer) as run:
            run.run(found, chosen, rivals, rounds, again=again)
            results = run.document["results"]
    except (benching.BenchError, others.PeerError) as error:
        die(FAILED, str(error))
    except StartError as error:
        die(UNAVAILABLE, str(error))
    except LedgerError as error:
        die(LEDGER, str(error))
    except RequestError as error:
        die(status_of(error), str(error), slug=error.slug)
    pareto.draw(results, pareto.shown_file(results), out / f"{name}.svg")
    report = pareto.document(results, f"{name}.svg")
    (out / f"{name}.md").write_text(report, encoding="utf-8")
    emit_json(run.document) if as_json else terminal.emit(report)


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help="The text to be sent; - for standard input.")],
    code: Code = "ngram",
    as_json: AsJson = False,
    plugin: Plugin = None,
) -> None:
    """Show the coder at work, token by token.

    The interval, the bits that become certain, and how Bob finds the token.
    """
    data = sys.stdin.buffer.read(1 << 16) if text == "-" else text.encode("utf-8", "surrogateescape")
    use_own(plugin, None, as_json=as_json)
    chosen = chosen_code(code, as_json=as_json)
    prepare()
    spec = spec_of(chosen, as_json=as_json)
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
    context: typer.Context,
    names: Names = None,
    code: CodeOrAuto = "mixing",
    changes: Changes = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Train on this file first; who decompresses needs it too. The result names its SHA-256.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Segments of the corpus to train on, k.", show_default="all of it once")
    ] = None,
    regime: Regime = None,
    tokenizer: FileTokenizer = None,
    output: Output = None,
    to_stdout: ToStdout = False,
    force: Force = False,
    keep: Keep = False,
    remove: Remove = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    plugin: Plugin = None,
    pretrained: Pretrained = None,
) -> None:
    """Compress files to FILE.clz1."""
    from harness import filing
    from harness.files import Manners

    del keep
    names = names or ["-"]
    _one_output(names, output, to_stdout, as_json)
    check_regime(regime, corpus, steps, as_json=as_json)
    use_own(plugin, pretrained, as_json=as_json)
    code = own_code(context, code, pretrained)
    chosen = changed(chosen_code(code, as_json=as_json), changes, as_json=as_json)
    prepare()
    tokenizers = readable([] if tokenizer is None else [tokenizer], as_json=as_json)
    which = filing.Coding.chosen(code, chosen, corpus, steps, regime, tokenizer, as_json=as_json)
    manners = Manners(output=output, to_stdout=to_stdout, force=force, remove=remove)
    with filing.assets([] if corpus is None else [corpus], tokenizers, again=len(names) > 1 or remove) as held:
        work = partial(filing.compress, coding=which, assets=held, manners=manners, quiet=quiet)
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
    max_size: MaxSize = None,
    max_memory: MaxMemory = _MEMORY,  # type: ignore[assignment]
    max_training: MaxTraining = _TRAINING,  # type: ignore[assignment]
    corpus: Corpora = None,
    tokenizer: FileTokenizers = None,
    as_json: AsJson = False,
    plugin: Plugin = None,
    pretrained: Pretrained = None,
) -> None:
    """Decompress FILE.clz1 to FILE.

    Every block is checked before it is written.
    """
    from harness import filing
    from harness.files import Manners
    from shared.service.limits import Limits

    del keep
    names = names or ["-"]
    _one_output(names, output, to_stdout, as_json)
    prepare()
    use_own(plugin, pretrained, as_json=as_json)
    manners = Manners(output=output, to_stdout=to_stdout, force=force, remove=remove)
    with filing.assets(readable(corpus, as_json=as_json), readable(tokenizer, as_json=as_json), again=len(names) > 1) as held:
        limits = Limits(model_bytes=max_memory, training_tokens=max_training)
        work = partial(filing.decompress, assets=held, manners=manners, max_bytes=max_size, limits=limits, quiet=quiet)
        _, status = filing.each(names, work, as_json=as_json)
    raise typer.Exit(status)


@app.command(name="test")
def verify(
    names: Names = None,
    quiet: Quiet = False,
    max_memory: MaxMemory = _MEMORY,  # type: ignore[assignment]
    max_training: MaxTraining = _TRAINING,  # type: ignore[assignment]
    corpus: Corpora = None,
    tokenizer: FileTokenizers = None,
    as_json: AsJson = False,
    plugin: Plugin = None,
    pretrained: Pretrained = None,
) -> None:
    """Decode files and verify them; write nothing."""
    from harness import filing
    from shared.service.limits import Limits

    prepare()
    use_own(plugin, pretrained, as_json=as_json)
    names = names or ["-"]
    with filing.assets(readable(corpus, as_json=as_json), readable(tokenizer, as_json=as_json), again=len(names) > 1) as held:
        limits = Limits(model_bytes=max_memory, training_tokens=max_training)
        work = partial(filing.test, assets=held, limits=limits, quiet=quiet)
        results, status = filing.each(names, work, as_json=as_json)
    if not (as_json or quiet):
        for result in results:
            if "error" not in result:
                size = sum(map(filing.data_bytes, result["transmissions"]))
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
def doctor(
    as_json: AsJson = False,
    peer: Annotated[
        Path | None, typer.Option(help="The other machine's doctor --json, or transmit --json of what failed: advice.")
    ] = None,
) -> None:
    """Tell whether this machine computes f exactly.

    Recompute the golden vectors, and print what computed them.
    """
    from harness import advice, examination

    theirs = None
    if peer is not None:
        must_be_readable(peer, as_json=as_json)
        try:
            theirs = advice.read(peer.read_text(encoding="utf-8", errors="replace"))
        except advice.ReportError as error:
            fail(USAGE, f"{peer}: {error}", as_json=as_json)
    prepare()
    report = examination.examine()
    if theirs is not None:
        report["advice"] = advice.advise(report, theirs)
    if as_json:
        emit_json(report)
    else:
        emit("\n".join([*examination.report(report), *report.get("advice", ())]))
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
        cluster = None
        if alice is None or bob is None:
            cluster = start_cluster(stack, warm=None if stay else codes, console_port=_console_port() if stay else None)
        client = open_client(stack, alice, bob, wire, patience=None, cluster=cluster)
        names = chosen_presets(client, codes, but=_TOO_SLOW_FOR_A_DEMO)
        dataset = client.post_octets(data, "pydoc_data.topics")
        if cluster is not None and stay:
            page = f"{cluster.console}/data/{dataset['sha256']}"
            terminal.say(f"Watch it at {page}")
            if desktop:
                import webbrowser

                webbrowser.open(page)
        results = [transmit_dataset(client, dataset["id"], name) for name in names]
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
            found = open_client(stack, alice, alice, None, as_json=as_json).codes()
    else:
        prepare()
        from harness.report import local_codes

        found = local_codes()
    if as_json:
        emit_json({"codes": found})
    else:
        width = max(len(code["name"]) for code in found)
        for code in found:
            emit(f"{code['name']:<{width}} |f| = {code['f_bits']['total'] / 8:>8,.0f} bytes   {code['summary']}")


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help="alice, bob, wire or console")],
    plugin: Plugin = None,
    pretrained: Pretrained = None,
) -> None:
    """Run one service in the foreground. CODELENGTH_* variables configure it (docs/operations.md)."""
    modules = {"alice": "alice", "bob": "bob", "wire": "harness.wire", "console": "harness.console"}
    if service not in modules:
        fail(USAGE, f"there is no service {service!r}: alice, bob, wire or console")
    use_own(plugin, pretrained)
    os.execv(sys.executable, [sys.executable, "-m", modules[service]])  # noqa: S606 - becomes the service


def _one_output(names: list[str], output: Path | None, to_stdout: bool, as_json: bool) -> None:
    if output is not None and to_stdout:
        fail(USAGE, "-o and -c exclude each other", as_json=as_json)
    if output is not None and len(names) > 1:
        fail(USAGE, f"-o names one output, but there are {len(names)} inputs; use -c to join them", as_json=as_json)
    if as_json and (to_stdout or (output is None and "-" in names)):
        fail(USAGE, "standard output cannot carry both the data and --json; use -o", as_json=as_json)


for _command in (studies.curve, studies.sample, cli_sweep.sweep, cli_report.report):
    app.command()(_command)
for _registered in app.registered_commands:
    _registered.epilog = epilog(str(_registered.name or getattr(_registered.callback, "__name__", "")))


def main() -> None:
    """The entry point."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that nothing half-made is left
    app()


if __name__ == "__main__":
    main()
