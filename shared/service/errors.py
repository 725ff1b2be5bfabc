"""Errors of the services, and every error as the outside sees it: a problem document (RFC 9457).

`problem` gives a document for any exception: those of f and of the channel are named by `shared.channel.errors.describe`, those
of the services by their class.
"""

import errno
import sqlite3
from http import HTTPStatus
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from shared.channel.errors import PeerFailedError, RefusedError, describe
from shared.code.errors import CodelengthError

MAX_RANKS: Final = 64


class ServiceError(CodelengthError):
    """A request that a service cannot serve."""

    slug: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500


class NotFoundError(ServiceError):
    """No such thing is held here."""

    slug = "not-found"
    http_status = 404

    def __init__(self, kind: str, identifier: str) -> None:
        super().__init__(kind, identifier)
        self.kind = kind
        self.identifier = identifier

    def __str__(self) -> str:
        return f"no {self.kind} {self.identifier!r} is held here"


class ConflictError(ServiceError):
    """The thing is in a state that does not allow this."""

    slug = "conflict"
    http_status = 409


class TooLargeError(ServiceError):
    """More than a limit of this service allows."""

    slug = "limit-exceeded"
    http_status = 413

    def __init__(self, what: str, limit: int, setting: str) -> None:
        super().__init__(what, limit, setting)
        self.what = what
        self.limit = limit
        self.setting = setting

    def __str__(self) -> str:
        return f"{self.what} exceeds the limit of {self.limit} ({self.setting})"


class BusyError(ServiceError):
    """The queue is full."""

    slug = "busy"
    http_status = 503


class StorageFullError(ServiceError):
    """No room is left for it."""

    slug = "storage-full"
    http_status = 507


class UnauthorizedError(ServiceError):
    """The bearer token is missing or wrong."""

    slug = "unauthorized"
    http_status = 401


class ForbiddenOriginError(ServiceError):
    """A page of another origin asked a browser for this."""

    slug = "forbidden-origin"
    http_status = 403


class MalformedRequestError(ServiceError):
    """The request cannot be read."""

    slug = "malformed-request"
    http_status = 422


class InexactTokenizerError(ServiceError):
    """A tokenizer whose ids do not give back the octets that they were made of. position: of the first octet that differs."""

    slug = "inexact-tokenizer"
    http_status = 422

    def __init__(self, sha256: str, position: int, reason: str) -> None:
        super().__init__(sha256, position, reason)
        self.sha256 = sha256
        self.position = position
        self.reason = reason

    def __str__(self) -> str:
        return f"the tokenizer {self.sha256} does not give these data back: byte {self.position} {self.reason}"


class RanksError(ServiceError):
    """So many ranks cannot compute a code. streams: of a network that ranks share; None where one process computes the code."""

    slug = "ranks-unusable"
    http_status = 422

    def __init__(self, ranks: int, streams: int | None) -> None:
        super().__init__(ranks, streams)
        self.ranks = ranks
        self.streams = streams

    def __str__(self) -> str:
        if self.streams is None:
            return f"{self.ranks} ranks have nothing to share: only networks with exact numerics have streams for them"
        *others, most = [str(ranks) for ranks in range(1, MAX_RANKS + 1) if self.streams % ranks == 0]
        would_do = f"{', '.join(others)} or {most}" if others else most
        return f"{self.ranks} ranks cannot share {self.streams} streams evenly; {would_do} can"


class UploadInterruptedError(ServiceError):
    """The caller went away before the upload was complete; nothing of it is kept."""

    slug = "upload-interrupted"
    http_status = 400


class WorkerLostError(ServiceError):
    """The process that did the model work is gone."""

    slug = "worker-lost"
    http_status = 500


class InterruptedTransmissionError(ServiceError):
    """The service was stopped while the transmission ran."""

    slug = "interrupted"
    http_status = 409


class Problem(BaseModel):
    """A problem document, `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str


def is_full(error: BaseException) -> bool:
    """Whether the system says that a disk or a quota is full."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def slug_of(error: BaseException) -> str:
    """The short name of an error, the same in problem documents, on the channel and in records."""
    if isinstance(error, (RefusedError, PeerFailedError)) and error.problem:
        return error.problem
    return error.slug if isinstance(error, ServiceError) else describe(error).slug


def close_code_of(error: BaseException) -> int:
    """The websocket close code for an error."""
    return 4040 if isinstance(error, ServiceError) else describe(error).close_code


def problem(error: BaseException) -> Problem:
    """The problem document of an exception. What is not ours is called internal and tells nothing of the machine."""
    if not isinstance(error, CodelengthError):
        return Problem(
            type="urn:codelength:problem:internal",
            title="Internal Server Error",
            status=500,
            detail="an internal error; see the log",
        )
    status = error.http_status if isinstance(error, ServiceError) else describe(error).http_status
    return Problem(
        type=f"urn:codelength:problem:{slug_of(error)}", title=HTTPStatus(status).phrase, status=status, detail=str(error)
    )


def problem_fields(error: BaseException) -> dict[str, Any]:
    """The problem document as JSON fields, as records keep it."""
    return problem(error).model_dump()
