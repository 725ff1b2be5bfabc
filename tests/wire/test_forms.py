"""Datasets in every form, the reconstruction in the form it came in, ranges, and limits reached exactly and by one."""

import io
import json
import threading

import httpx
import numpy as np
import pytest

from shared.code.errors import VocabularyError
from shared.code.spec import BytesVocabulary, IdsVocabulary
from shared.service import forms
from shared.service.errors import MalformedRequestError

IDS = [0, 1, 299, 5, 5, 5, 131]


def npy(values, dtype="<u2") -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(values, dtype=dtype))
    return out.getvalue()


NPY, UINT16 = npy(IDS), np.array(IDS, dtype="<u2").tobytes()
JSON = json.dumps({"vocabulary_size": 300, "tokens": IDS}).encode()


def post(cluster, content, media_type, **params):
    return httpx.post(
        f"{cluster.alice}/datasets", content=content, headers={"Content-Type": media_type}, params=params, trust_env=False
    )


@pytest.fixture(scope="module")
def sent(cluster, client):
    """Transmissions by form; each of another m, for equal ids are one dataset."""
    out = {}
    for form, m in (("json", 300), ("npy", 301), ("uint16", 302)):
        content = {"json": JSON.replace(b"300", b"300"), "npy": NPY, "uint16": UINT16}[form]
        params = {} if form == "json" else {"vocabulary_size": m}
        dataset = post(cluster, content, forms.MEDIA_TYPES[form], **params).json()
        assert (dataset["tokens"], dataset["vocabulary_size"]) == (len(IDS), m)
        out[form] = client.transmit(dataset["id"], "frequency")["transmission"]
    return out


@pytest.mark.parametrize("form", ["json", "npy", "uint16"])
def test_given_back_in_the_form_it_came_in(cluster, sent, form):
    answer = httpx.get(f"{cluster.bob}/transmissions/{sent[form]}/reconstruction", trust_env=False)
    assert answer.headers["content-type"].startswith(forms.MEDIA_TYPES[form])
    if form == "json":
        assert answer.json() == {"vocabulary_size": 300, "tokens": IDS}
    elif form == "npy":
        assert np.load(io.BytesIO(answer.content)).tolist() == IDS
    else:
        assert answer.content == UINT16


@pytest.mark.parametrize("form", ["json", "npy", "uint16", "raw"])
def test_given_in_any_other_form(cluster, sent, form):
    answer = httpx.get(f"{cluster.bob}/transmissions/{sent['npy']}/reconstruction", params={"form": form}, trust_env=False)
    found = {
        "json": lambda: answer.json()["tokens"],
        "npy": lambda: np.load(io.BytesIO(answer.content)).tolist(),
        "uint16": lambda: np.frombuffer(answer.content, "<u2").tolist(),
        "raw": lambda: np.frombuffer(answer.content, "<u2").tolist(),
    }[form]()
    assert found == IDS


@pytest.mark.parametrize(
    ("files", "data", "expected"),
    [
        ({"file": ("ids.npy", NPY, "application/x-npy")}, {"vocabulary_size": "400"}, (400, 7, "ids.npy")),
        ({"file": ("ids.npy", NPY)}, {"vocabulary_size": "401", "form": "npy", "name": "other"}, (401, 7, "other")),
        ({"file": ("ids.json", JSON, "application/json")}, {}, (300, 7, None)),
        ({"file": ("text", b"multipart octets", "text/plain")}, {}, (256, 16, "text")),
        ({"file": ("ids", UINT16, "application/x-uint16")}, {}, (65536, 7, "ids")),
    ],
)
def test_multipart(cluster, files, data, expected):
    answer = httpx.post(f"{cluster.alice}/datasets", files=files, data=data, trust_env=False)
    assert answer.status_code in (200, 201), answer.text
    dataset = answer.json()
    assert (dataset["vocabulary_size"], dataset["tokens"]) == expected[:2]
    assert expected[2] in (None, dataset["name"])


@pytest.mark.parametrize(
    ("options", "slug", "text"),
    [
        ({"files": {"other": ("x", b"x")}}, "malformed-request", "no file called 'file'"),
        ({"files": {"file": ("x", b"x"), "more": ("y", b"y")}}, "malformed-request", "form"),
        ({"files": {"file": ("x", b"x")}, "data": {"form": "csv"}}, "malformed-request", "no form 'csv'"),
        ({"files": {"file": ("x", b"x")}, "data": {"vocabulary_size": "many"}}, "malformed-request", "integer"),
        ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "malformed-request", "form"),
        ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data"}}, "malformed-request", "form"),
        ({"content": NPY, "params": {"form": "npy"}}, "malformed-request", "vocabulary_size"),
        ({"content": NPY, "params": {"form": "npy", "vocabulary_size": 299}}, "not-in-vocabulary", "token 2: the id 299"),
        ({"content": NPY[:-1], "params": {"form": "npy", "vocabulary_size": 300}}, "malformed-request", "whole number"),
        ({"content": NPY[:-2], "params": {"form": "npy", "vocabulary_size": 300}}, "malformed-request", "announces 7 values, 6"),
        ({"content": b"\x93NUMPY", "params": {"form": "npy", "vocabulary_size": 300}}, "malformed-request", "npy"),
        ({"content": npy([[1, 2]]), "params": {"form": "npy", "vocabulary_size": 300}}, "malformed-request", "one-dimensional"),
        ({"content": npy([1.5], "<f8"), "params": {"form": "npy", "vocabulary_size": 300}}, "malformed-request", "float64"),
        ({"content": npy([-1], "<i4"), "params": {"form": "npy", "vocabulary_size": 300}}, "not-in-vocabulary", "-1"),
        ({"content": b"abc", "params": {"form": "uint16"}}, "malformed-request", "whole number"),
        ({"content": b"abc", "params": {"vocabulary_size": 255}}, "not-in-vocabulary", "octets"),
        ({"json": {"vocabulary_size": 1 << 21, "tokens": []}}, "not-in-vocabulary", "2^20"),
        ({"json": {"vocabulary_size": 4, "tokens": [1, 2.5]}}, "not-in-vocabulary", "integers"),
        ({"json": {"vocabulary_size": 4, "tokens": [10**40]}}, "not-in-vocabulary", "token 0"),
        ({"content": b"x", "params": {"name": "n" * 256}}, "malformed-request", "name"),
        ({"content": b"x", "params": {"form": "csv"}}, "malformed-request", "form"),
    ],
)
def test_bad_forms(cluster, options, slug, text):
    answer = httpx.post(f"{cluster.alice}/datasets", trust_env=False, **options)
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"] == f"urn:codelength:problem:{slug}"
    assert text in answer.json()["detail"]


def test_arrays_of_any_integer_type_and_none(tmp_path):
    for dtype in ("<i8", ">i4", "u1", ">u2"):
        out = io.BytesIO()
        assert forms.read("npy", io.BytesIO(npy([3, 1, 2], dtype)), out, 300)[:3] == (IdsVocabulary(size=300), 3, 6)
        assert out.getvalue() == b"\3\0\1\0\2\0"
    assert forms.read("npy", io.BytesIO(npy([])), io.BytesIO(), 5).tokens == 0
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(header, {"descr": "<u2", "fortran_order": False, "shape": (1,)})
    assert forms.read("npy", io.BytesIO(header.getvalue() + b"\7\0"), io.BytesIO(), 8).tokens == 1


def test_written_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "_CHUNK_TOKENS", 3)
    (tmp_path / "raw").write_bytes(UINT16)
    for form in forms.FORMS:
        out = io.BytesIO()
        forms.write(form, tmp_path / "raw", IdsVocabulary(size=300), out)
        if form != "octets":
            back = io.BytesIO()
            assert forms.read(form, io.BytesIO(out.getvalue()), back, None if form == "json" else 300).tokens == len(IDS)
            assert back.getvalue() == UINT16
    with pytest.raises(VocabularyError, match="uint16"):
        forms.write("uint16", tmp_path / "raw", IdsVocabulary(size=70_000), io.BytesIO())
    assert forms.read("octets", io.BytesIO(b"abc"), io.BytesIO(), 256).vocabulary == BytesVocabulary()
    with pytest.raises(MalformedRequestError):
        forms.read("npy", io.BytesIO(b""), io.BytesIO(), 5)


@pytest.fixture(scope="module")
def letters(client):
    """Letters as Bob has them."""
    dataset = client.post_octets(b"abcdefghijklmnopqrstuvwxyz", "letters.txt")
    return client.transmit(dataset["id"], "uniform")["transmission"]


@pytest.mark.parametrize(
    ("asked", "status", "body", "said"),
    [
        (None, 200, b"abcdefghijklmnopqrstuvwxyz", None),
        ("bytes=0-3", 206, b"abcd", "bytes 0-3/26"),
        ("bytes=25-", 206, b"z", "bytes 25-25/26"),
        ("bytes=-2", 206, b"yz", "bytes 24-25/26"),
        ("bytes=20-99", 206, b"uvwxyz", "bytes 20-25/26"),
        ("bytes=26-", 416, None, None),
    ],
)
def test_ranges(cluster, letters, asked, status, body, said):
    headers = {"Range": asked} if asked else {}
    answer = httpx.get(f"{cluster.bob}/transmissions/{letters}/reconstruction", headers=headers, trust_env=False)
    assert answer.status_code == status
    assert body in (None, answer.content)
    assert said in (None, answer.headers.get("content-range"))
    if status == 200:
        assert answer.headers["accept-ranges"] == "bytes"
        assert 'filename="letters.txt"' in answer.headers["content-disposition"]


def test_ranges_of_another_form_and_of_a_changed_file(cluster, letters):
    url = f"{cluster.bob}/transmissions/{letters}/reconstruction"
    whole = httpx.get(url, params={"form": "npy"}, trust_env=False)
    part = httpx.get(url, params={"form": "npy"}, headers={"Range": "bytes=-3"}, trust_env=False)
    assert part.content == whole.content[-3:] == b"xyz"
    held = {"Range": "bytes=0-3", "If-Range": whole.headers["etag"]}
    assert httpx.get(url, params={"form": "npy"}, headers=held, trust_env=False).status_code == 206
    assert httpx.get(url, headers=held, trust_env=False).status_code == 200  # another form is another file


def test_what_bob_calls_a_file_is_harmless(cluster, client):
    evil = post(cluster, b"<script>alert(1)</script>", "text/html", name='../../e"vil\r\nX: y.html').json()
    transmission = client.transmit(evil["id"], "uniform")["transmission"]
    answer = httpx.get(f"{cluster.bob}/transmissions/{transmission}/reconstruction", trust_env=False)
    assert answer.content == b"<script>alert(1)</script>"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "/" not in answer.headers["content-disposition"].replace("utf-8''", "")
    assert answer.headers["content-security-policy"] == "sandbox"
    assert "x" not in answer.headers


async def test_limits_exactly_and_by_one(alice_app):
    octets = {"Content-Type": "application/octet-stream"}
    assert (await alice_app.post("/datasets", content=b"x" * (1 << 16), headers=octets)).status_code == 201
    over = await alice_app.post("/datasets", content=b"x" * ((1 << 16) + 1), headers=octets)
    assert (over.status_code, over.json()["type"]) == (413, "urn:codelength:problem:limit-exceeded")
    assert (await alice_app.post("/datasets", params={"name": "n" * 255}, content=b"y", headers=octets)).status_code == 201
    form = {"file": ("x", b"x" * (1 << 16))}
    assert (await alice_app.post("/datasets", files=form)).status_code == 413
    for m, status in ((1, 201), (1 << 20, 201), (0, 422), ((1 << 20) + 1, 422)):
        answer = await alice_app.post("/datasets", json={"vocabulary_size": m, "tokens": [0]})
        assert answer.status_code == status


def test_the_same_data_twice_at_once(cluster, client):
    from harness.client import Client, Urls

    data = bytes(range(256)) * 2000
    dataset = client.post_octets(data, "twice")["id"]
    results = []

    def send():
        with Client(Urls(alice=cluster.alice, bob=cluster.bob, wire=cluster.wire)) as one:
            results.append(one.transmit(dataset, "ngram"))

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["state"] for one in results] == ["verified"] * 3
    first, *others = (one["transmission"] for one in results)
    httpx.delete(f"{cluster.bob}/transmissions/{first}", trust_env=False).raise_for_status()
    for one in others:
        assert httpx.get(f"{cluster.bob}/transmissions/{one}/reconstruction", trust_env=False).content == data
