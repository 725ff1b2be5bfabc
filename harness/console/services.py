"""Alice and Bob as the console asks them: JSON, server-sent events, and errors that are sentences."""

import json
import ssl
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray

from harness.console.settings import ConsoleSettings
from harness.figures.shown import Name

_COST_UNITS_PER_BIT: Final = 1 << 24  # as `GET /transmissions/{id}/bits` says
_COST_BYTES: Final = 4


class ServiceError(Exception):
    """A service refused, or is not there; the text is a sentence for people. status: HTTP's, 502 where there was no answer."""

    def __init__(self, text: str, status: int = 502) -> None:
        super().__init__(text)
        self.status = status


class Services:
    """The HTTP clients of both services."""

    def __init__(self, settings: ConsoleSettings) -> None:
        headers = {} if settings.token is None else {"Authorization": f"Bearer {settings.token.get_secret_value()}"}
        verify: ssl.SSLContext | bool = True
        if settings.tls_authority is not None:
            verify = ssl.create_default_context(cafile=settings.tls_authority)
        timeout = httpx.Timeout(10, read=None)
        limits = httpx.Limits(max_connections=None)
        self._urls: dict[Name, str] = {"alice": settings.alice_url, "bob": settings.bob_url}
        self._http = httpx.AsyncClient(headers=headers, verify=verify, timeout=timeout, limits=limits, trust_env=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def ask(self, service: Name, path: str, *, method: str = "GET", **options: Any) -> dict[str, Any]:
        """A JSON answer. Raises `ServiceError`."""
        answer = await self._send(service, path, method=method, **options)
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    async def ready(self) -> dict[str, str]:
        """Both services' words about themselves."""
        found: dict[str, str] = {}
        for service in self._urls:
            try:
                answer = await self._http.get(f"{self._urls[service]}/readyz", timeout=5)
                found[service] = str(answer.json()["status"])
            except (httpx.HTTPError, ValueError, KeyError):
                found[service] = "not there"
        return found

    async def costs(self, identifier: str, first: int) -> NDArray[np.float64]:
        """Bits of the tokens from `first` that Bob has checked."""
        headers = {"Accept": "application/octet-stream", "Range": f"bytes={_COST_BYTES * first}-"}
        path = f"/transmissions/{identifier}/bits"
        try:
            answer = await self._send("bob", path, params={"per": "token"}, headers=headers)
        except ServiceError as error:
            if error.status in (404, 416):  # nothing checked yet, or nothing more
                return np.zeros(0)
            raise
        content = answer.content[: len(answer.content) // _COST_BYTES * _COST_BYTES]
        return np.frombuffer(content, dtype="<u4") / _COST_UNITS_PER_BIT

    async def events(self, service: Name, identifier: str) -> AsyncIterator[dict[str, Any]]:
        """A transmission's record whenever it changes. Raises `ServiceError`."""
        url = f"{self._urls[service]}/transmissions/{identifier}/events"
        try:
            async with self._http.stream("GET", url) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise _refusal(answer)
                async for line in answer.aiter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line[5:])
        except httpx.HTTPError as error:
            raise self._absence(service, error) from None

    async def content(self, identifier: str) -> AsyncIterator[bytes]:
        """What Bob has decoded, in its canonical form. Raises `ServiceError`."""
        url = f"{self._urls['bob']}/transmissions/{identifier}/reconstruction"
        try:
            async with self._http.stream("GET", url, params={"form": "raw"}) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise _refusal(answer)
                async for part in answer.aiter_bytes():
                    yield part
        except httpx.HTTPError as error:
            raise self._absence("bob", error) from None

    async def upload(self, content: AsyncIterable[bytes] | bytes, query: dict[str, Any]) -> dict[str, Any]:
        """Give Alice a dataset. Raises `ServiceError`."""
        headers = {"Content-Type": "application/octet-stream"}
        return await self.ask("alice", "/datasets", method="POST", params=query, content=content, headers=headers)

    async def corpora(self) -> list[dict[str, Any]]:
        """Corpora that both services hold; none where one of them does not answer."""
        try:
            at_bob = {one["id"] for one in (await self.ask("bob", "/corpora"))["corpora"]}
            return [one for one in (await self.ask("alice", "/corpora"))["corpora"] if one["id"] in at_bob]
        except ServiceError:
            return []

    async def give_corpus(self, path: Path, query: dict[str, Any]) -> dict[str, Any]:
        """Give a file to both services as a corpus. Raises `ServiceError`."""

        async def parts() -> AsyncIterator[bytes]:
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    yield part

        headers = {"Content-Type": "application/octet-stream"}
        both: tuple[Name, ...] = ("bob", "alice")
        for service in both:
            found = await self.ask(service, "/corpora", method="POST", params=query, content=parts(), headers=headers)
        return found

    async def _send(self, service: Name, path: str, *, method: str = "GET", **options: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, f"{self._urls[service]}{path}", **options)
        except httpx.HTTPError as error:
            raise self._absence(service, error) from None
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def _absence(self, service: Name, error: httpx.HTTPError) -> ServiceError:
        reason = str(error).rpartition("] ")[2] or type(error).__name__
        return ServiceError(
            f"{service.title()} does not answer at {self._urls[service]} ({reason.lower()}). Is that service running?"
        )


def _refusal(answer: httpx.Response) -> ServiceError:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"{answer.url.path} was answered with HTTP {answer.status_code}"
    return ServiceError(f"{detail[:1].upper()}{detail[1:]}.".replace("..", "."), answer.status_code)
