"""The command line: `codelength transmit | demo | codes | serve`. Results go to standard output, all else to standard error.

Exit status: 0 done; 1 the transmission did not end verified; 2 wrong usage or input; 3 services could not be started or reached;
4 the ledger does not hold; 130 interrupted. Imports are late, so that --help answers at once.
"""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from harness.transmit import Client

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Alice sends Bob a dataset as an arithmetic code under a model both train as they go; every bit is counted.",
)

_FAILED: Final = 1
_USAGE: Final = 2
_UNAVAILABLE: Final = 3
_LEDGER: Final = 4


def _fail(status: int, text: str) -> NoReturn:
    typer.echo(f"codelength: {text}", err=True)
    raise typer.Exit(status)


@app.command()
def transmit(
    file: Annotated[Path, typer.Argument(help="The file whose octets Alice sends.")],
    code: Annotated[str, typer.Option(help="The preset, as `codelength codes` lists them.")] = "ngram",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    send_f: Annotated[bool, typer.Option("--send-f", help="Send f's source too; Bob compares it with his.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write Bob's reconstruction to this file.")] = None,
    alice: Annotated[str | None, typer.Option(help="A running Alice's URL, instead of private services.")] = None,
    bob: Annotated[str | None, typer.Option(help="The running Bob's URL.")] = None,
    wire: Annotated[str | None, typer.Option(help="The running wire's counts URL, if there is one.")] = None,
) -> None:
    """Transmit FILE from Alice to Bob, and print what it cost."""
    if not file.is_file():
        _fail(_USAGE, f"{file}: no such file" if not file.exists() else f"{file}: not a regular file")
    if not os.access(file, os.R_OK):
        _fail(_USAGE, f"{file}: cannot be read")
    if (alice is None) != (bob is None):
        _fail(_USAGE, "--alice and --bob come together")
    with ExitStack() as stack:
        client = _client(stack, alice, bob, wire)
        result = _transmit(client, client.post_file(file)["id"], code, send_f=send_f)
        if save is not None and result["state"] == "verified":
            client.reconstruction(result["transmission"], save)
    if as_json:
        import json

        typer.echo(json.dumps(result, indent=2))
    else:
        from harness.report import ledger_table, print_table

        print_table(ledger_table([result]))
    if result["state"] != "verified":
        _fail(_FAILED, f"the transmission is {result['state']}: {(result['error'] or {}).get('detail', 'no reason is known')}")


@app.command()
def demo(
    alice: Annotated[str | None, typer.Option(help="A running Alice's URL, instead of private services.")] = None,
    bob: Annotated[str | None, typer.Option(help="The running Bob's URL.")] = None,
    wire: Annotated[str | None, typer.Option(help="The running wire's counts URL.")] = None,
) -> None:
    """Transmit a sample text with every preset, and print the ledger."""
    from harness.report import explain_table, ledger_table, print_table
    from harness.sample import sample_text

    data = sample_text()
    typer.echo("Starting Alice, the wire and Bob ..." if alice is None else f"Waiting for {alice} and {bob} ...", err=True)
    with ExitStack() as stack:
        client = _client(stack, alice, bob, wire)
        dataset = client.post_octets(data, "pydoc_data.topics")
        results = [_transmit(client, dataset["id"], code["name"]) for code in client.codes()]
    typer.echo(f"The sample: Python's own manual pages, {len(data):,} bytes, SHA-256 {dataset['sha256']}\n")
    print_table(ledger_table(results))
    typer.echo(explain_table())
    if any(result["state"] != "verified" for result in results):
        _fail(_FAILED, "not every transmission was verified")


@app.command()
def codes(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    alice: Annotated[str | None, typer.Option(help="Ask a running Alice, and print |f| as measured there.")] = None,
) -> None:
    """List the presets."""
    if alice is not None:
        with ExitStack() as stack:
            found = _client(stack, alice, alice, None).codes()
    else:
        from shared.service.kernels import prepare_kernel_cache

        prepare_kernel_cache()
        from harness.report import local_codes

        found = local_codes()
    if as_json:
        import json

        typer.echo(json.dumps({"codes": found}, indent=2))
    else:
        for code in found:
            typer.echo(f"{code['name']:<12} |f| = {code['f_bits']['total'] / 8:>8,.0f} bytes   {code['summary']}")


@app.command()
def serve(service: Annotated[str, typer.Argument(help="alice, bob or wire")]) -> None:
    """Run one service in the foreground. CODELENGTH_* variables configure it (see the README)."""
    modules = {"alice": "alice", "bob": "bob", "wire": "harness.wire"}
    if service not in modules:
        _fail(_USAGE, f"there is no service {service!r}: alice, bob or wire")
    os.execv(sys.executable, [sys.executable, "-m", modules[service]])  # noqa: S606 - becomes the service


def _client(stack: ExitStack, alice: str | None, bob: str | None, wire: str | None) -> "Client":
    import time

    from harness.cluster import Cluster, StartError, wait_ready
    from harness.transmit import Client, Urls

    try:
        if alice is not None and bob is not None:
            deadline = time.monotonic() + 180
            for url in (alice, bob, *([wire] if wire else [])):
                wait_ready(url, deadline)
            urls = Urls(alice=alice, bob=bob, wire=wire)
        else:
            cluster = stack.enter_context(Cluster())
            urls = Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)
    except StartError as error:
        _fail(_UNAVAILABLE, str(error))
    return stack.enter_context(Client(urls, os.environ.get("CODELENGTH_TOKEN")))


def _transmit(client: "Client", dataset: str, code: str, *, send_f: bool = False) -> dict[str, Any]:
    from harness.report import Progress
    from harness.transmit import LedgerError, RequestError

    with Progress(code) as progress:
        try:
            return client.transmit(dataset, code, send_f=send_f, progress=progress.show)
        except RequestError as error:
            _fail(_USAGE, str(error))
        except LedgerError as error:
            _fail(_LEDGER, f"the ledger does not hold: {error}")


def main() -> None:
    """The entry point."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
