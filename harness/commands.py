"""What several commands have in common: options, checks of what was typed, private services and clients of them."""

import os
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import terminal
from harness.terminal import FAILED, LEDGER, UNAVAILABLE, USAGE, fail

if TYPE_CHECKING:
    from harness.client import Client, RequestError
    from harness.cluster import Cluster
    from harness.simulation import Simulation
    from shared.code import spec as specs
    from shared.code.spec import CodeSpec


def preset_names(incomplete: str) -> list[str]:
    """Presets whose names begin so, for completion."""
    from shared.code.models import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def _names_with_auto(incomplete: str) -> list[str]:
    return [*preset_names(incomplete), *(name for name in ("auto",) if name.startswith(incomplete))]


def _regimes(incomplete: str) -> list[str]:
    return [name for name in REGIMES if name.startswith(incomplete)]


def _size(text: str) -> int:
    """A number of bytes or tokens: 4096, 64K, 10M, 2G."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in ("", "K", "M", "G", "T"):
        raise typer.BadParameter(f"{text!r} is no size; write 4096, 64K, 10M or 2G")
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]


REGIMES = ("online", "frozen")
Code = Annotated[
    str, typer.Option(help="A preset, as `codelength codes` lists them, or a spec.json.", autocompletion=preset_names)
]
CodeOrAuto = Annotated[
    str,
    typer.Option(
        help="A preset, as `codelength codes` lists them, a spec.json, or auto: what does best on the beginning.",
        autocompletion=_names_with_auto,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the code, as in training.replay.passes=1."),
]
Regime = Annotated[
    str | None,
    typer.Option(
        help="online: k grows while FILE is sent; frozen: p^(k) is fixed.",
        show_default="as the code has it",
        autocompletion=_regimes,
    ),
]
MaxMemory = Annotated[int, typer.Option(metavar="SIZE", parser=_size, help="Refuse a code that needs more memory than this.")]
MaxTraining = Annotated[
    int, typer.Option(metavar="TOKENS", parser=_size, help="Refuse a code that trains on more before the data, replay counted.")
]
MaxSize = Annotated[int | None, typer.Option(metavar="SIZE", parser=_size, help="Write no more than this, for each file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Alice = Annotated[str | None, typer.Option(help="A running Alice's URL, instead of private services.")]
Bob = Annotated[str | None, typer.Option(help="The running Bob's URL.")]
Wire = Annotated[str | None, typer.Option(help="The running wire's counts URL, if there is one.")]
Form = Annotated[str, typer.Option(help="What FILE is: octets, json, npy, uint16 or parquet.")]
Column = Annotated[str | None, typer.Option(metavar="NAME", help="The column of a Parquet file whose integers are the tokens.")]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="tokenizer.json", help="Send FILE's tokens by this tokenizer, which both sides hold; f is charged for it."
    ),
]
FileTokenizer = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="tokenizer.json", help="Code this tokenizer's tokens; who decompresses needs it too."),
]
FileTokenizers = Annotated[
    list[Path] | None,
    typer.Option("--tokenizer", metavar="tokenizer.json", help="What made the files' tokens; may be given several times."),
]
Corpus = Annotated[
    Path | None,
    typer.Option(help="A file that both sides hold and train on first; f is charged for it. Of the same form as FILE."),
]
Vocabulary = Annotated[int | None, typer.Option("--vocabulary-size", "-m", help="m, for npy, uint16 and parquet.")]

Plugin = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A file of predictors of your own, for both ends; may be given more than once."),
]


Pretrained = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="A pretrained model's directory, for both ends; the code, unless --code names one."),
]


def use_own(plugins: list[Path] | None, directories: list[Path] | None, *, as_json: bool = False) -> None:
    """Load plugins and pretrained models here, and let the services that this command starts load them."""
    if not plugins and not directories:
        return
    for file in plugins or ():
        must_be_readable(file, as_json=as_json)
    prepare()
    from shared.channel.errors import describe
    from shared.code.errors import PluginError, PretrainedError
    from shared.service.plugins import load
    from shared.service.pretrained import load_pretrained

    for variable, paths, loading in (
        ("CODELENGTH_PLUGINS", plugins, load),
        ("CODELENGTH_PRETRAINED", directories, load_pretrained),
    ):
        if paths:
            named = os.pathsep.join(str(path.resolve()) for path in paths)
            try:
                loading(named)
            except (PluginError, PretrainedError) as error:
                fail(USAGE, str(error), as_json=as_json, slug=describe(error).slug)
            os.environ[variable] = named


def own_code(context: typer.Context, code: str, directories: list[Path] | None) -> str:
    """The code that is meant: that of the first pretrained model, if there is one and no code is named."""
    source = context.get_parameter_source("code")
    return directories[0].resolve().name if directories and source is not None and source.name == "DEFAULT" else code


def prepare() -> None:
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


def must_be_readable(file: Path, *, as_json: bool) -> None:
    """End the command unless this is a regular file."""
    if not file.is_file():
        fail(USAGE, f"{file}: no such file" if not file.exists() else f"{file}: not a regular file", as_json=as_json)
    if not os.access(file, os.R_OK):
        fail(USAGE, f"{file}: cannot be read", as_json=as_json)


def readable(paths: list[Path] | None, *, as_json: bool) -> list[Path]:
    """The files; ends the command unless all can be read."""
    for path in paths or ():
        must_be_readable(path, as_json=as_json)
    return paths or []


def chosen_code(code: str, *, as_json: bool) -> str | dict[str, Any]:
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


def changed(code: str | dict[str, Any], changes: list[str] | None, *, as_json: bool) -> str | dict[str, Any]:
    """A code after `--set`: the fields of a spec where there is any; otherwise as it is."""
    if not changes:
        return code
    if code == "auto":
        fail(USAGE, "--set changes a code, and auto has yet to choose one: name it with --code", as_json=as_json)
    import json

    fields: dict[str, Any] = spec_of(code, as_json=as_json).model_dump(mode="json")
    for change in changes:
        name, equals, text = change.partition("=")
        *path, last = name.split(".")
        if not equals or not all((*path, last)):
            fail(USAGE, f"--set {change}: is not FIELD=VALUE, as in training.replay.passes=1", as_json=as_json)
        part = fields
        for step in path:
            part[step] = {} if part.get(step) is None else part[step]
            part = part[step]
            if not isinstance(part, dict):
                fail(USAGE, f"--set {change}: {step} is a value, it has no fields", as_json=as_json)
        try:
            part[last] = json.loads(text)
        except ValueError:
            part[last] = text
    spec_of(fields, as_json=as_json)
    return fields


def vocabulary_of(dataset: dict[str, Any]) -> dict[str, Any]:
    """The vocabulary of a dataset as a spec's fields."""
    if dataset["vocabulary"] == "bytes":
        return {"kind": "bytes"}
    return {"kind": "ids", "size": dataset["vocabulary_size"], "tokenizer": dataset["tokenizer"]}


def check_regime(regime: str | None, corpus: Path | None, steps: int | None, *, as_json: bool) -> None:
    """End the command unless these go together."""
    if regime not in (None, *REGIMES):
        fail(USAGE, f"there is no regime {regime!r}: online or frozen", as_json=as_json)
    if corpus is None and steps:
        fail(USAGE, "--steps needs a --corpus to take them on", as_json=as_json)
    if corpus is not None:
        must_be_readable(corpus, as_json=as_json)


def not_heavy(names: list[str]) -> list[str]:
    """Those of Alice's codes that may be computed unasked."""
    from shared.code.models import PRESETS

    return [name for name in names if name not in PRESETS or not PRESETS[name].heavy]


def chosen_presets(client: "Client", codes: str | None, *, but: tuple[str, ...] = (), as_json: bool = False) -> list[str]:
    """The presets named in `codes`, each once; where it is None, all that Alice has, save `but` and heavy ones."""
    known = [one["name"] for one in client.codes()]
    if codes is None:
        return [name for name in not_heavy(known) if name not in but]
    names = _known(codes, known, as_json=as_json)
    if not names:
        fail(USAGE, f"no preset is named; there are {', '.join(known)}", as_json=as_json, slug="unknown-code")
    return names


def _known(codes: str, known: list[str], *, as_json: bool) -> list[str]:
    names = [name.strip() for name in codes.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown:
        said = f"no preset is called {', '.join(unknown)}; there are {', '.join(known)}"
        fail(USAGE, said, as_json=as_json, slug="unknown-code")
    return list(dict.fromkeys(names))


def names_in(text: str) -> list[str]:
    """Names separated by commas; none for -."""
    return [] if text == "-" else [name.strip() for name in text.split(",") if name.strip()]


def bench_codes(codes: str | None, *, as_json: bool) -> list[str]:
    """The codes that `bench` is to measure, with their variants; ends the command where one is none."""
    from harness.bench import VARIANTS
    from shared.code.models import PRESETS
    from shared.code.spec import NETWORKS

    chosen = [name for name, one in PRESETS.items() if not one.heavy] if codes is None else names_in(codes)
    for code in chosen:
        name, _, variant = code.partition(":")
        if name not in PRESETS:
            fail(USAGE, f"no preset is called {name}; there are {', '.join(PRESETS)}", as_json=as_json, slug="unknown-code")
        if variant and (variant not in VARIANTS or not isinstance(PRESETS[name].model, NETWORKS)):
            fail(USAGE, f"{code}: only networks have variants, {', '.join(VARIANTS)}", as_json=as_json)
    return chosen


def presets_of(*codes: str | dict[str, Any]) -> str | None:
    """What private services are to have loaded for these codes, as `warm`: None, all, where Alice is to choose among all."""
    return None if "auto" in codes else ",".join(code for code in codes if isinstance(code, str))


def spec_of(code: str | dict[str, Any], vocabulary: "specs.Vocabulary | None" = None, *, as_json: bool) -> "CodeSpec":
    """The spec of a preset over a vocabulary, or of the fields of one; ends the command where it is none."""
    from shared.channel.errors import describe
    from shared.code.errors import InputError
    from shared.code.models import spec_of

    try:
        return spec_of(code, vocabulary)
    except InputError as error:
        fail(USAGE, str(error), as_json=as_json, slug=describe(error).slug)


def start_cluster(
    stack: ExitStack,
    *,
    warm: str | None = None,
    channel: str | None = None,
    ranks: str | None = None,
    as_json: bool = False,
    console_port: int | None = None,
) -> "Cluster":
    """Private services, with the presets that `warm` names loaded (all if None), and the console where it is given a port."""
    from harness.cluster import Cluster, StartError

    names = None if warm is None else _known(warm, preset_names(""), as_json=as_json)
    own = {"wire": {"CODELENGTH_WIRE_CHANNEL": channel or ""}, **_ranks(ranks, as_json=as_json)}
    try:
        return stack.enter_context(Cluster(warm=names, own=own, console_port=console_port))
    except StartError as error:
        fail(UNAVAILABLE, str(error), as_json=as_json)


def check_ranks(ranks: str | None, code: str | dict[str, Any], *, private: bool, as_json: bool) -> None:
    """End the command where so many ranks cannot compute the code; what auto will choose is not known, its record tells."""
    if ranks is None:
        return
    if not private:
        fail(USAGE, "--ranks is for private services; running ones are told by CODELENGTH_RANKS", as_json=as_json)
    numbers = _ranks(ranks, as_json=as_json)
    if code == "auto":
        return
    from shared.service.errors import RanksError
    from shared.service.kernels import require_ranks

    spec = spec_of(code, as_json=as_json)
    for own in numbers.values():
        try:
            require_ranks(spec, int(own["CODELENGTH_RANKS"]))
        except RanksError as error:
            fail(USAGE, f"--ranks {ranks}: {error}", as_json=as_json, slug=error.slug)


def _ranks(ranks: str | None, *, as_json: bool) -> dict[str, dict[str, str]]:
    """What `--ranks` says, as the variables of both services; ends the command where it says nothing that can be done."""
    if ranks is None:
        return {}
    alice, comma, bob = ranks.partition(",")
    numbers = {"alice": alice, "bob": bob if comma else alice}
    if not all(re.fullmatch(r"[1-9]|[1-5][0-9]|6[0-4]", one) for one in numbers.values()):
        fail(USAGE, f"--ranks {ranks}: one number from 1 to 64 for both sides, or Alice's and Bob's, as in 4,1", as_json=as_json)
    return {name: {"CODELENGTH_RANKS": number} for name, number in numbers.items()}


def parse_channel(channel: str | None, *, private: bool, as_json: bool) -> "Simulation | None":
    """What `--channel` says; ends the command where that makes no sense."""
    from harness.simulation import ChannelError, Simulation

    if channel is None:
        return None
    if not private:
        fail(USAGE, "--channel is for private services; a running wire is told by CODELENGTH_WIRE_CHANNEL", as_json=as_json)
    try:
        return Simulation.parse(channel)
    except ChannelError as error:
        fail(USAGE, f"--channel: {error}", as_json=as_json)


def open_client(
    stack: ExitStack,
    alice: str | None,
    bob: str | None,
    wire: str | None,
    *,
    warm: str | None = None,
    channel: str | None = None,
    ranks: str | None = None,
    as_json: bool = False,
    patience: float | None = 5.0,
    cluster: "Cluster | None" = None,
) -> "Client":
    """Of running services, or of private ones, which load the presets that `warm` names (all if None) before they are ready.

    Ends the command where only one of `alice` and `bob` is given.
    """
    from harness.client import Client, RequestError, Urls
    from harness.cluster import StartError, wait_ready

    if (alice is None) != (bob is None):
        fail(USAGE, "--alice and --bob come together", as_json=as_json)
    try:
        if alice is not None and bob is not None:
            deadline = time.monotonic() + 180
            for url in (alice, bob, *([wire] if wire else [])):
                wait_ready(url, deadline, patience=patience)
            urls = Urls(alice=alice, bob=bob, wire=wire)
        else:
            cluster = cluster or start_cluster(stack, warm=warm, channel=channel, ranks=ranks, as_json=as_json)
            urls = Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)
    except StartError as error:
        fail(UNAVAILABLE, str(error), as_json=as_json)
    client = stack.enter_context(Client(urls, os.environ.get("CODELENGTH_TOKEN")))

    def told(_: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RequestError):
            fail(status_of(error), str(error), as_json=as_json, slug=error.slug)

    stack.push(told)
    return client


@dataclass(frozen=True, slots=True)
class Given:
    """How files become datasets, as it was typed."""

    form: str = "octets"
    vocabulary_size: int | None = None
    column: str | None = None
    tokenizer: Path | None = None

    @classmethod
    def checked(
        cls, form: str, vocabulary_size: int | None, column: str | None, tokenizer: Path | None, *, as_json: bool
    ) -> "Given":
        """Ends the command where these do not go together."""
        die = partial(fail, USAGE, as_json=as_json)
        if (form == "parquet") != (column is not None):
            die("--form parquet and --column NAME come together")
        if form == "parquet" and vocabulary_size is None:
            die("a Parquet file does not say m; give it with -m")
        if tokenizer is not None:
            must_be_readable(tokenizer, as_json=as_json)
            if form != "octets" or vocabulary_size is not None:
                die("--tokenizer is for octets, and says itself what m is; leave out --form and -m")
        return cls(form, vocabulary_size, column, tokenizer)


def post(client: "Client", file: Path, given: Given, *, as_corpus: bool = False, as_json: bool) -> dict[str, Any]:
    """Give Alice a dataset, or both sides a corpus; before it both get the tokenizer, if there is one."""
    from harness.client import FORMS, RequestError
    from harness.columns import ColumnError, as_npy

    if given.form not in (*FORMS, "parquet"):
        fail(USAGE, f"there is no form {given.form!r}: {', '.join(FORMS)}, parquet", as_json=as_json)
    told = given.tokenizer
    try:
        tokenizer = None if told is None else client.post_tokenizer(told)["id"]
        told = file
        send = client.post_corpus if as_corpus else client.post_file
        if given.column is None:
            return send(file, given.form, given.vocabulary_size, tokenizer)
        with as_npy(file, given.column, given.vocabulary_size or 1) as path:
            return send(path, "npy", given.vocabulary_size)
    except RequestError as error:
        fail(status_of(error), f"{told}: {error}", as_json=as_json, slug=error.slug)
    except ColumnError as error:
        fail(USAGE, f"{file}: {error}", as_json=as_json)


def transmit_dataset(
    client: "Client",
    dataset: str,
    code: str | dict[str, Any],
    *,
    send_f: bool = False,
    training: dict[str, Any] | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Transmit, showing progress on standard error."""
    from harness.client import LedgerError, RequestError

    with terminal.Progress(code if isinstance(code, str) else "custom", "tokens") as progress:

        def show(record: dict[str, Any]) -> None:
            state = record["state"]
            if record["corpus"] is not None and not record["tokens_done"]:
                state = f"{state}, {record['steps']:,} steps on the corpus"
            progress.update(record["tokens_done"], record["dataset"]["tokens"], state)

        try:
            return client.transmit(dataset, code, send_f=send_f, training=training, progress=show)
        except RequestError as error:
            fail(status_of(error), str(error), as_json=as_json, slug=error.slug)
        except LedgerError as error:
            fail(LEDGER, f"the ledger does not hold: {error}", as_json=as_json)


def status_of(error: "RequestError") -> int:
    """Whether the caller was wrong, or a service not there, not ready, or full."""
    return UNAVAILABLE if error.slug in ("unavailable", "busy", "storage-full") else USAGE
