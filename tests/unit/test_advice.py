"""Two reports become advice: which of the causes it is, and nothing else."""

import copy
import json

import pytest

from harness.advice import ReportError, advise, read
from shared.channel.errors import DivergedError

REPORT = {
    "exact": True,
    "result": "abc",
    "f": {"codelength": "0.1.0", "sources": "11", "format": 1, "protocol": 2, "file_format": 1},
    "vectors": [{"name": "ngram", "exact": True}],
    "files": [],
    "machine": {"processor": "x"},
    "versions": {"torch": "2.13.0"},
}


def changed(*path, value):
    other = copy.deepcopy(REPORT)
    inner = other
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return other


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (changed("f", "sources", value="12"), ["different programs (sources 11 here, 12 there)"]),
        ({**changed("vectors", 0, "exact", value=False), "exact": False}, ["other machine does not compute f exactly (ngram)"]),
        (changed("result", value="abd"), ["was changed"]),
        (changed("versions", "torch", value="2.12.0"), ["compute f exactly", "torch 2.13.0 and 2.12.0"]),
        (REPORT, ["compute f exactly", "nothing that is known differs"]),
    ],
)
def test_two_machines(theirs, said):
    found = advise(REPORT, read(json.dumps(theirs)))
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True)), found


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"f": "11", "vectors": "avx2"}, "vectors avx512 and avx2"),
        ({"f": "12", "vectors": "avx512"}, "different programs (f 11 and 12)"),
        ({"f": "11", "vectors": "avx512"}, "alike"),
    ],
)
def test_a_transmission_that_diverged(theirs, said):
    """The error as the channel says it is what is read here."""
    error = DivergedError(5, 9, json.dumps({"f": "11", "vectors": "avx512"}), json.dumps(theirs))
    found = advise(REPORT, {"error": {"detail": f"the peer reports: {error}"}})
    assert "tokens 5 to 8" in found[0]
    assert said in found[1]


def test_what_is_no_report():
    for text in ("{", "[]", "{}"):
        with pytest.raises(ReportError):
            read(text)
    assert "names no two runtimes" in advise(REPORT, read('{"error": null}'))[0]
