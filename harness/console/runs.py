"""All transmissions of one dataset, as Alice and Bob list them, and all datasets that have any."""

from typing import Any

from harness.console.services import ServiceError, Services
from harness.figures.shown import FINAL_STATES, ended
from harness.figures.steps import steps_of


async def all_runs(services: Services) -> list[dict[str, Any]]:
    """Every transmission, oldest first: Alice's records, and Bob's where she has none. Raises `ServiceError`."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for record in (await services.ask("bob", "/transmissions"))["transmissions"]:
            found[record["id"]] = record
    except ServiceError:
        pass  # Alice knows those that matter; if she does not answer either, that is told
    for record in (await services.ask("alice", "/transmissions"))["transmissions"]:
        found[record["id"]] = record
    return sorted(found.values(), key=lambda one: str(one["created_at"]))


def over(records: list[dict[str, Any]], sha256: str) -> list[dict[str, Any]]:
    """Those of one dataset, by S_k; those under way first, what came to nothing last."""
    mine = [one for one in records if one["dataset"]["sha256"] == sha256]
    return sorted(mine, key=_rank)


def points(records: list[dict[str, Any]]) -> set[tuple[str, int, str | None]]:
    """The frozen ones that are verified or under way: code, k and corpus."""
    return {
        (one["code"]["name"], steps_of(one), one["corpus"])
        for one in records
        if one["regime"] == "frozen" and (one["state"] == "verified" or not ended(one))
    }


def _rank(record: dict[str, Any]) -> tuple[int, float]:
    if record["state"] == "verified":
        return 1, record["sk_bits"] or 0.0
    return (2 if record["state"] in FINAL_STATES else 0), 0.0


def datasets(held: list[dict[str, Any]], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Datasets with how often each was sent, and the best transmission, newest first."""
    known = {one["id"]: one for one in held}
    for record in records:
        if record["dataset"]["sha256"]:
            known.setdefault(record["dataset"]["sha256"], record["dataset"])
    out = []
    for sha256, dataset in known.items():
        mine = over(records, sha256)
        best = next((one for one in mine if one["state"] == "verified"), None)
        newest = max([dataset["created_at"], *(one["created_at"] for one in mine)])
        out.append(
            {**dataset, "runs": len(mine), "best": best, "newest": newest, "held": any(one["id"] == sha256 for one in held)}
        )
    return sorted(out, key=lambda one: str(one["newest"]), reverse=True)
