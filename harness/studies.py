"""The commands that study a model: `curve` and `sample`. `harness.cli` registers them."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness import terminal
from harness.commands import (
    Alice,
    AsJson,
    Bob,
    Code,
    Column,
    Corpus,
    Form,
    Given,
    Plugin,
    Tokenizer,
    Vocabulary,
    Wire,
    chosen_code,
    must_be_readable,
    open_client,
    post,
    presets_of,
    spec_of,
    transmit_dataset,
    use_own,
)
from harness.terminal import FAILED, USAGE, emit, emit_json, fail


def curve(
    file: Annotated[Path, typer.Argument(help="The file that Alice sends.")],
    code: Annotated[str, typer.Option(help="Presets or spec.json files, separated by commas.")] = "ngram",
    corpus: Corpus = None,
    steps: Annotated[str, typer.Option(help="Values of k, separated by commas.")] = "0",
    online: Annotated[
        bool, typer.Option("--online", help="The online curve too: bits against tokens, regret, and more.")
    ] = False,
    png: Annotated[Path | None, typer.Option(help="Draw it in this file.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--continue", metavar="FILE.json", help="Keep points in this file; do not make again those in it."),
    ] = None,
    as_json: AsJson = False,
    form: Form = "octets",
    vocabulary_size: Vocabulary = None,
    column: Column = None,
    tokenizer: Tokenizer = None,
    alice: Alice = None,
    bob: Bob = None,
    wire: Wire = None,
    plugin: Plugin = None,
) -> None:
    """Measure S_k and r_k against k, by real transmissions.

    Each sends FILE under p^(k), frozen after k steps on the corpus.
    """
    from harness import curve as curves

    die = partial(fail, as_json=as_json)
    must_be_readable(file, as_json=as_json)
    given = Given.checked(form, vocabulary_size, column, tokenizer, as_json=as_json)
    if png is not None and not png.absolute().parent.is_dir():
        die(USAGE, f"{png}: there is no such directory")
    if corpus is not None:
        must_be_readable(corpus, as_json=as_json)
    use_own(plugin, None, as_json=as_json)
    chosen = [chosen_code(one.strip(), as_json=as_json) for one in code.split(",") if one.strip()]
    for one in chosen:
        spec_of(one, as_json=as_json)
    with ExitStack() as stack:
        try:
            wanted = curves.parse_steps(steps)
            if corpus is None and wanted != [0]:
                die(USAGE, "--steps needs a --corpus to take them on")
            client = open_client(stack, alice, bob, wire, warm=presets_of(*chosen), as_json=as_json)
            dataset = post(client, file, given, as_json=as_json)
            found = curves.Curve(client, dataset, resume)
            held = None
            if corpus is not None:
                held = post(client, corpus, given, as_corpus=True, as_json=as_json)
                for one in chosen:
                    spec = spec_of(one, as_json=as_json)
                    if wanted[-1] > (most := curves.segments(spec, held["tokens"])):
                        terminal.say(
                            f"{curves.label(one)}: {corpus} has {most:,} steps; beyond, it is taken from its beginning again"
                        )
            found.frozen(chosen, wanted, held, terminal.say)
            if online:
                post(client, file, given, as_corpus=True, as_json=as_json)
                found.learning(chosen, terminal.say)
            if png is not None:
                from harness.curve_picture import draw

                draw(found.as_json(), png)
        except curves.CurveError as error:
            die(USAGE, str(error))
        except OSError as error:
            die(FAILED, f"{png}: cannot be written: {(error.strerror or str(error)).lower()}")
    if as_json:
        emit_json(found.as_json())
    else:
        from harness.report import print_table

        print_table(curves.point_rows(found.points))
        if found.online:
            emit("")
            print_table(curves.online_rows(found.online))
    if any(one["state"] != "verified" for one in (*found.points, *found.online)):
        fail(FAILED, "not every transmission was verified")


def sample(
    file: Annotated[Path | None, typer.Argument(help="A file that Alice sends first.")] = None,
    transmission: Annotated[
        str | None, typer.Option(help="Or a transmission that Bob has verified; with --alice and --bob.")
    ] = None,
    tokens: Annotated[int, typer.Option("-n", "--tokens", min=1, max=65_536, help="How many to draw.")] = 200,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the coin flips; the system's where there is none.")] = None,
    code: Code = "ngram",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the tokens to this file: octets, or 4 bytes each.")
    ] = None,
    as_json: AsJson = False,
    form: Form = "octets",
    vocabulary_size: Vocabulary = None,
    column: Column = None,
    tokenizer: Tokenizer = None,
    alice: Alice = None,
    bob: Bob = None,
    wire: Wire = None,
    plugin: Plugin = None,
) -> None:
    """Draw a sample: fair coin flips go into Bob's decoder.

    It draws from the model as it was at the end of a transmission.
    """
    die = partial(fail, as_json=as_json)
    if (file is None) == (transmission is None):
        die(USAGE, "name a FILE to be sent first, or a --transmission")
    if transmission is not None and bob is None:
        die(USAGE, "--transmission needs the services that hold it: --alice and --bob")
    if file is not None:
        must_be_readable(file, as_json=as_json)
    given = Given.checked(form, vocabulary_size, column, tokenizer, as_json=as_json)
    use_own(plugin, None, as_json=as_json)
    chosen = chosen_code(code, as_json=as_json)
    with ExitStack() as stack:
        client = open_client(stack, alice, bob, wire, warm=presets_of(chosen), as_json=as_json)
        if file is not None:
            dataset = post(client, file, given, as_json=as_json)
            result = transmit_dataset(client, dataset["id"], chosen, as_json=as_json)
            if result["state"] != "verified":
                die(
                    FAILED,
                    f"the transmission is {result['state']}: {(result['error'] or {}).get('detail', 'no reason is known')}",
                )
            transmission = result["transmission"]
        drawn = client.sample(str(transmission), tokens, seed)
    if output is not None:
        width = 1 if drawn["text"] is not None else 4
        try:
            output.write_bytes(b"".join(token.to_bytes(width, "little") for token in drawn["tokens"]))
        except OSError as error:
            die(FAILED, f"{output}: cannot be written: {(error.strerror or str(error)).lower()}")
    if as_json:
        emit_json(drawn)
    else:
        if output is None:
            emit(drawn["text"] if drawn["text"] is not None else " ".join(map(str, drawn["tokens"])))
        terminal.say(
            f"{tokens:,} tokens after token {drawn['position']:,} of the data, at k = {drawn['steps']:,}: "
            f"-log2 of their interval is {drawn['nll_bits']:,.1f}, {drawn['flips']:,} coin flips were drawn"
        )
