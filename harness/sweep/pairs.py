"""Where trials run: a pair of Alice and Bob with the wire between them. Here as processes of this machine; `rays` has the other.

`perform` is one trial at a running pair, the same for both kinds. A pair serves one trial after the other, and forgets each.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import httpx

from harness.client import Client, LedgerError, RequestError, Urls
from harness.cluster import Cluster, StartError
from harness.sweep.grid import Held, Trial
from shared.service.kernels import sources_digest

_ENDED: Final = ("verified", "failed", "cancelled")

Progress = Callable[[int], None]
"""Called with the tokens done of the trial that runs."""


class PairLostError(Exception):
    """The pair cannot be used any more: a service, a worker or a machine has gone. The trial says nothing about f."""


class TrialError(Exception):
    """A trial failed, and another try at it would too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which machine Alice and Bob are on, and what computes f there: the JSON of `GET /version`'s `runtime`."""

    node_alice: str
    node_bob: str
    runtime_alice: str
    runtime_bob: str

    @property
    def differences(self) -> list[str]:
        """What the two runtimes differ in; empty where they are alike."""
        alice, bob = json.loads(self.runtime_alice), json.loads(self.runtime_bob)
        names = sorted({*alice, *bob})
        return [
            f"{name}: {alice.get(name)} at Alice's, {bob.get(name)} at Bob's"
            for name in names
            if alice.get(name) != bob.get(name)
        ]


class Pair(Protocol):
    """A pair that is up."""

    where: Where

    def run(self, trial: Trial, progress: Progress) -> dict[str, Any]:
        """Make one transmission; what `transmit --json` prints. Raises `PairLostError` or `TrialError`."""

    def close(self) -> None:
        """Stop the services; may be called at any moment, from any thread, and more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Data for a service, by the name that it is to have there, and the identity that it must turn out to have.

    tokenizer: the file of the one that makes the tokens of octets, if one does.
    """

    path: Path
    name: str
    form: str
    vocabulary_size: int
    sha256: str
    tokenizer: Path | None

    @classmethod
    def of(cls, held: Held) -> Self:
        """What a grid holds, on the machine that it was read on."""
        return cls(
            path=held.path,
            name=held.name,
            form=held.form,
            vocabulary_size=held.vocabulary.size,
            sha256=held.sha256,
            tokenizer=held.tokenizer,
        )

    def at(self, directory: Path) -> Self:
        """The same with its files in another directory, under the same names."""
        tokenizer = self.tokenizer and directory / self.tokenizer.name
        return replace(self, path=directory / self.path.name, tokenizer=tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A trial as a pair is asked for it."""

    dataset: Given
    corpus: Given | None
    code: str | dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def of(cls, trial: Trial) -> Self:
        """The order for a trial."""
        code, training = trial.request
        corpus = None if trial.corpus is None else Given.of(trial.corpus)
        return cls(dataset=Given.of(trial.dataset), corpus=corpus, code=code, training=training)

    @property
    def files(self) -> list[Path]:
        """All that it needs, each once; their names are digests of what they hold."""
        given = [one for one in (self.dataset, self.corpus) if one is not None]
        return list(dict.fromkeys(path for one in given for path in (one.path, one.tokenizer) if path is not None))

    def at(self, directory: Path) -> Self:
        """The same with its files in another directory, under the same names."""
        return replace(self, dataset=self.dataset.at(directory), corpus=self.corpus and self.corpus.at(directory))


def perform(client: Client, order: Order, progress: Progress) -> dict[str, Any]:
    """One trial at running services. Raises `PairLostError` or `TrialError`."""
    try:
        dataset = _give(client, client.post_file, order.dataset)
        if order.corpus is not None:
            _give(client, client.post_corpus, order.corpus)
        result = client.transmit(
            dataset, order.code, training=order.training, progress=lambda record: progress(record["tokens_done"])
        )
        if result["state"] not in _ENDED:
            raise PairLostError(f"the transmission was {result['state']}: {(result['error'] or {}).get('detail')}")
        with contextlib.suppress(RequestError):
            client.forget(result["transmission"], dataset)
    except RequestError as error:
        if error.slug == "unavailable":
            raise PairLostError(str(error)) from None
        raise TrialError(str(error)) from None
    except LedgerError as error:
        raise TrialError(f"the ledger does not hold: {error}") from None
    return result


def _give(client: Client, post: Callable[[Path, str, int | None, str | None], dict[str, Any]], given: Given) -> str:
    size = None if given.form == "octets" else given.vocabulary_size
    tokenizer = None if given.tokenizer is None else client.post_tokenizer(given.tokenizer)["id"]
    held = str(post(given.path, given.form, size, tokenizer)["id"])
    if held != given.sha256:
        raise TrialError(f"{given.name} was changed while the sweep ran: it has the SHA-256 {held}, it had {given.sha256}")
    return held


def runtime_at(url: str, side: str) -> str:
    """What computes f at a service. Raises `StartError` where it is another f than the sweep's."""
    found = httpx.get(f"{url}/version", timeout=30, trust_env=False).json()
    if found["f"] != sources_digest():
        raise StartError(f"{side}'s machine has another f, {found['f']}; the sweep's is {sources_digest()}: install one version")
    return str(found["runtime"])


class LocalPair:
    """Alice, the wire and Bob as processes of this machine. warm: presets that they load before they are ready."""

    def __init__(self, warm: list[str]) -> None:
        self._cluster = Cluster(warm=warm)
        self._cluster.__enter__()
        try:
            urls = Urls(alice=self._cluster.alice, bob=self._cluster.bob, wire=self._cluster.wire)
            runtimes = runtime_at(urls.alice, "Alice"), runtime_at(urls.bob, "Bob")
            self._client = Client(urls)
        except BaseException:
            self._cluster.__exit__(None, None, None)
            raise
        self.where = Where(node_alice="local", node_bob="local", runtime_alice=runtimes[0], runtime_bob=runtimes[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def run(self, trial: Trial, progress: Progress) -> dict[str, Any]:
        """One transmission. Raises `PairLostError` or `TrialError`."""
        return perform(self._client, Order.of(trial), progress)

    def close(self) -> None:
        """Stop the services."""
        self._cluster.__exit__(None, None, None)
        self._client.__exit__()
