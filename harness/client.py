"""One transmission from outside: hand a file to Alice, follow it, read both ledgers and the witness, and hold them together."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from harness.accounts import add, pair, retransmitted
from shared.service.forms import FORMS

_FINAL: Final = ("interrupted", "verified", "failed", "cancelled")
COST_UNITS_PER_BIT: Final = 1 << 24  # as `GET /transmissions/{id}/bits` says
_SETTLE_SECONDS: Final = 15.0


class RequestError(Exception):
    """A service refused a request, or could not be reached. `slug` names the problem, where the service named it."""

    def __init__(self, text: str, slug: str | None = None) -> None:
        super().__init__(text)
        self.slug = slug


class LedgerError(Exception):
    """The two services, their kernels and the witness do not agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Urls:
    """Where the services are; the wire may be missing, then there is no witness."""

    alice: str
    bob: str
    wire: str | None


class Client:
    """An HTTP client of Alice, Bob and the wire."""

    def __init__(self, urls: Urls, token: str | None = None) -> None:
        self._urls = urls
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(timeout=httpx.Timeout(60, read=None), headers=headers, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def codes(self) -> list[dict[str, Any]]:
        """Alice's presets."""
        found: list[dict[str, Any]] = self._json("GET", f"{self._urls.alice}/codes")["codes"]
        return found

    def post_octets(self, content: bytes | Iterator[bytes], name: str, tokenizer: str | None = None) -> dict[str, Any]:
        """Give Alice a dataset. tokenizer: SHA-256 of one that she holds."""
        headers = {"Content-Type": "application/octet-stream"}
        query = {"name": name} | ({} if tokenizer is None else {"tokenizer": tokenizer})
        return self._json("POST", f"{self._urls.alice}/datasets", params=query, content=content, headers=headers)

    def post_tokens(self, tokens: list[int], vocabulary_size: int, name: str) -> dict[str, Any]:
        """Give Alice token ids."""
        body = {"vocabulary_size": vocabulary_size, "tokens": tokens}
        return self._json("POST", f"{self._urls.alice}/datasets", params={"name": name}, json=body)

    def post_file(
        self, path: Path, form: str = "octets", vocabulary_size: int | None = None, tokenizer: str | None = None
    ) -> dict[str, Any]:
        """Give Alice a file, streamed. form: one of `FORMS`. tokenizer: SHA-256 of one that she holds, for octets."""
        return self._post_file(
            f"{self._urls.alice}/datasets", path, form=form, vocabulary_size=vocabulary_size, tokenizer=tokenizer
        )

    def _post_file(self, url: str, path: Path, **said: str | int | None) -> dict[str, Any]:
        def parts() -> Iterator[bytes]:
            with path.open("rb") as file:
                while data := file.read(1 << 20):
                    yield data

        query: dict[str, Any] = {"name": path.name[:255]} | {name: value for name, value in said.items() if value is not None}
        headers = {"Content-Type": "application/octet-stream"}
        return self._json("POST", url, params=query, content=parts(), headers=headers)

    def post_corpus(
        self, path: Path, form: str = "octets", vocabulary_size: int | None = None, tokenizer: str | None = None
    ) -> dict[str, Any]:
        """Give Alice and Bob a corpus; its record."""
        said = {"form": form, "vocabulary_size": vocabulary_size, "tokenizer": tokenizer}
        self._post_file(f"{self._urls.bob}/corpora", path, **said)
        return self._post_file(f"{self._urls.alice}/corpora", path, **said)

    def post_tokenizer(self, path: Path) -> dict[str, Any]:
        """Give Alice and Bob a tokenizer; its record."""
        self._post_file(f"{self._urls.bob}/tokenizers", path)
        return self._post_file(f"{self._urls.alice}/tokenizers", path)

    def transmit(
        self,
        dataset: str,
        code: str | dict[str, Any],
        *,
        send_f: bool = False,
        training: dict[str, Any] | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Transmit a dataset that Alice holds; returns the object that `transmit --json` prints.

        training: `corpus`, `steps` and `regime`, where they are not the code's own.
        Raises `RequestError`, or `LedgerError` where a verified transmission's counts disagree.
        """
        body = {"dataset": dataset, "code": code, "send_f": send_f, **(training or {})}
        record = self._json("POST", f"{self._urls.alice}/transmissions", json=body)
        identifier = record["id"]
        try:
            self._follow(identifier, progress)
        except BaseException:
            with contextlib.suppress(httpx.HTTPError):
                self._http.post(f"{self._urls.alice}/transmissions/{identifier}/cancel", timeout=5)
            raise
        return self.ledger(identifier)

    def ledger(self, identifier: str) -> dict[str, Any]:
        """The same object for a transmission that has ended, or been given up. Raises as `transmit`."""
        sent = self._settled(self._urls.alice, identifier)
        try:
            received = self._settled(self._urls.bob, identifier)
        except RequestError:
            if sent["state"] == "verified":
                raise
            received = None
        return self._result(sent, received)

    def sample(self, identifier: str, tokens: int, seed: int | None) -> dict[str, Any]:
        """Tokens that Bob draws from the model as it was at a transmission's end. Raises `RequestError`."""
        body = {"tokens": tokens, "seed": seed}
        return self._json("POST", f"{self._urls.bob}/transmissions/{identifier}/sample", json=body)

    def forget(self, identifier: str, dataset: str) -> None:
        """Delete a transmission that has ended at both services, and the dataset at Alice's. Raises `RequestError`."""
        for url in (self._urls.alice, self._urls.bob):
            self._send("DELETE", f"{url}/transmissions/{identifier}")
        self._send("DELETE", f"{self._urls.alice}/datasets/{dataset}")

    def record(self, service: Literal["alice", "bob"], identifier: str) -> dict[str, Any]:
        """A transmission as one service tells it. Raises `RequestError`."""
        url = self._urls.alice if service == "alice" else self._urls.bob
        return self._json("GET", f"{url}/transmissions/{identifier}")

    def costs(self, identifier: str) -> NDArray[np.float64]:
        """Bits of every token that Bob has checked [n]. Raises `RequestError`."""
        url = f"{self._urls.bob}/transmissions/{identifier}/bits"
        try:
            answer = self._http.get(url, params={"per": "token"}, headers={"Accept": "application/octet-stream"})
        except httpx.HTTPError as error:
            raise RequestError(f"{url}: {error}", "unavailable") from None
        if answer.is_error:
            return np.zeros(0)
        return np.frombuffer(answer.content, dtype="<u4") / COST_UNITS_PER_BIT

    def blocks(self, identifier: str) -> list[dict[str, Any]]:
        """Bits of every block that Bob has checked. Raises `RequestError`."""
        url = f"{self._urls.bob}/transmissions/{identifier}/bits"
        found: list[dict[str, Any]] = self._json("GET", url, params={"per": "block"})["per_block"]
        return found

    def decoded(self, identifier: str, first: int, count: int) -> dict[str, Any]:
        """A part of what Bob has decoded, with costs. Raises `RequestError`."""
        url = f"{self._urls.bob}/transmissions/{identifier}/decoded"
        return self._json("GET", url, params={"first": first, "count": count})

    def reconstruction(self, identifier: str, path: Path, form: str | None = None) -> None:
        """Save what Bob decoded, whole or not at all, as it came in or in a form. Raises `RequestError` or `OSError`."""
        temporary = path.with_name(f".{path.name[:200]}.{identifier[:12]}.partial")
        url = f"{self._urls.bob}/transmissions/{identifier}/reconstruction"
        try:
            with self._http.stream("GET", url, params={} if form is None else {"form": form}) as answer:
                answer.raise_for_status()
                with temporary.open("wb") as file:
                    for part in answer.iter_bytes():
                        file.write(part)
            temporary.replace(path)
        except httpx.HTTPError as error:
            raise RequestError(f"{url}: {error}", "unavailable") from None
        finally:
            temporary.unlink(missing_ok=True)

    def _follow(self, identifier: str, progress: Callable[[dict[str, Any]], None] | None) -> None:
        import json

        url = f"{self._urls.alice}/transmissions/{identifier}/events"
        try:
            with self._http.stream("GET", url) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data:") and progress is not None:
                        progress(json.loads(line[5:]))
        except httpx.HTTPError as error:
            raise RequestError(f"Alice went away: {url}: {error}", "unavailable") from None

    def _settled(self, url: str, identifier: str) -> dict[str, Any]:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            record = self._json("GET", f"{url}/transmissions/{identifier}")
            if (record["state"] in _FINAL and not record["resuming"] and record["wire"]["final"]) or time.monotonic() > deadline:
                return record
            time.sleep(0.02)

    def _result(self, sent: dict[str, Any], received: dict[str, Any] | None) -> dict[str, Any]:
        ends = sent["wire"]["connections"], received["wire"]["connections"] if received is not None else []
        connections = pair(*ends, self._witnesses(*ends))
        wire: dict[str, Any] = {"connections": len(connections)}
        quarrels: list[str] = []
        for name in ("alice_to_bob", "bob_to_alice"):
            wire[name], found = add(connections, name, witnessed=self._urls.wire is not None)
            quarrels += [f"{name}: {line}" for line in found]
        wire["final"] = bool(sent["wire"]["final"] and received is not None and received["wire"]["final"])
        if sent["state"] == "verified":
            one = wire["alice_to_bob"]
            once = -(-sent["z_bits"] // 8) + sent["abandoned_bytes"]
            one.update(retransmitted(connections, one["z_bytes"], once))
            if wire["final"] and quarrels:
                raise LedgerError("; ".join(quarrels))
        of_dataset = ("sha256", "tokens", "vocabulary_size", "bytes", "tokenizer", "octets", "octets_sha256")
        dataset = {name: sent["dataset"][name] for name in of_dataset}
        figures = ("s0_bits", "sk_bits", "compression_rate", "compression_rate_net_of_f", "bits_per_token", "bits_per_byte")
        return {
            "transmission": sent["id"],
            "state": sent["state"],
            "dataset": dataset,
            "code": {name: sent["code"][name] for name in ("name", "digest")},
            "regime": sent["regime"],
            "corpus": sent["corpus"],
            "steps": sent["steps"],
            "ranks": {"alice": sent["ranks"], "bob": received and received["ranks"]},
            "f_bits": sent["f_bits"],
            "nll_bits": sent["nll_bits"],
            "z_bits": sent["z_bits"],
            "rollbacks": sent["rollbacks"],
            "abandoned_bytes": sent["abandoned_bytes"],
            **{name: sent[name] for name in figures},
            "wire": wire,
            "seconds": {
                "prepare": sent["seconds"].get("prepare"),
                "encode": sent["seconds"].get("encode"),
                "decode": received["seconds"].get("decode") if received else None,
                "total": sent["seconds"].get("total"),
            },
            "peak_memory_bytes": {"alice": sent["peak_memory_bytes"], "bob": received and received["peak_memory_bytes"]},
            "reconstruction": (received or sent)["reconstruction"],
            "error": sent["error"],
            "notes": sent["notes"],
            "choice": sent["choice"],
        }

    def _witnesses(self, alice: list[dict[str, Any]], bob: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the wire counted of these connections, once they have closed or a while has passed."""
        if self._urls.wire is None:
            return []
        deadline = time.monotonic() + _SETTLE_SECONDS
        found = [one for one in (self._seen(connection["local"], deadline) for connection in alice) if one is not None]
        if len(bob) > len(found):  # Alice was killed before she wrote one down
            upstream = {connection["peer"] for connection in bob} - {one["upstream"] for one in found}
            try:
                every = self._json("GET", f"{self._urls.wire}/connections")["connections"]
            except RequestError:
                every = []
            found += [one for one in every if one["upstream"] in upstream]
        return found

    def _seen(self, client: str, deadline: float) -> dict[str, Any] | None:
        while True:
            try:
                counts = self._json("GET", f"{self._urls.wire}/connections/{client}")
            except RequestError:  # Alice does not go through this wire
                return None
            if not counts["open"] or time.monotonic() > deadline:
                return counts
            time.sleep(0.02)

    def _json(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._send(method, url, **options).json()
        return found

    def _send(self, method: str, url: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, url, **options)
        except httpx.HTTPError as error:
            raise RequestError(f"{url}: {error}", "unavailable") from None
        if answer.is_error:
            try:
                document = answer.json()
                detail, slug = document["detail"], str(document["type"]).rpartition(":")[2]
            except (ValueError, KeyError, TypeError):
                detail, slug = f"{url} answered HTTP {answer.status_code}", None
            raise RequestError(str(detail), slug)
        return answer


__all__ = ["FORMS", "Client", "LedgerError", "RequestError", "Urls"]
