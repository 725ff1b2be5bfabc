"""Alice's HTTP interface on the real application, without a Bob."""

import asyncio

import pytest

from shared.code.models import PRESETS

OCTETS = {"Content-Type": "application/octet-stream"}


def slug(answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["detail"]
    return document["type"].removeprefix("urn:codelength:problem:")


async def test_operations(alice_app):
    assert (await alice_app.get("/healthz")).status_code == 200
    assert (await alice_app.get("/version")).json()["service"] == "alice"
    assert "codelength" in (await alice_app.get("/metrics")).text
    assert [c["name"] for c in (await alice_app.get("/codes")).json()["codes"]] == list(PRESETS)


async def test_datasets_come_and_go(alice_app):
    one = await alice_app.post("/datasets", params={"name": "n"}, content=b"hello", headers=OCTETS)
    assert one.status_code == 201
    identifier = one.json()["id"]
    assert (await alice_app.get(f"/datasets/{identifier}")).json()["bytes"] == 5
    again = await alice_app.post("/datasets", content=b"hello", headers=OCTETS)
    assert again.json()["id"] == identifier
    ids = await alice_app.post("/datasets", json={"vocabulary_size": 300, "tokens": [1, 299]})
    assert (ids.json()["tokens"], ids.json()["vocabulary_size"]) == (2, 300)
    assert (await alice_app.delete(f"/datasets/{identifier}")).status_code == 204
    assert slug(await alice_app.get(f"/datasets/{identifier}")) == "not-found"


@pytest.mark.parametrize(
    ("options", "status", "problem"),
    [
        ({"json": {"vocabulary_size": 3, "tokens": [0, 3]}}, 422, "not-in-vocabulary"),
        ({"json": {"vocabulary_size": 3, "tokens": [-1]}}, 422, None),
        ({"json": {"vocabulary_size": 0, "tokens": []}}, 422, None),
        ({"json": {"tokens": "x"}}, 422, None),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, None),
        ({"content": b"x" * 70_000, "headers": OCTETS}, 413, "limit-exceeded"),
    ],
)
async def test_bad_datasets(alice_app, options, status, problem):
    answer = await alice_app.post("/datasets", **options)
    assert answer.status_code == status
    assert slug(answer) == (problem or slug(answer))
    assert (await alice_app.get("/datasets")).json()["datasets"] == []


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"dataset": "0" * 64, "code": "ngram"}, 404, "not-found"),
        ({"dataset": None, "code": "zip"}, 422, "unknown-code"),
        ({"dataset": None, "code": {"model": {"kind": "magic"}}}, 422, "invalid-spec"),
        ({"dataset": None, "code": {"model": {"kind": "uniform"}, "vocabulary": {"kind": "ids", "size": 5}}}, 422, None),
        ({"code": "ngram"}, 422, None),
    ],
)
async def test_bad_transmissions(alice_app, body, status, problem):
    held = (await alice_app.post("/datasets", content=b"x", headers=OCTETS)).json()["id"]
    if body.get("dataset", "") is None:
        body = {**body, "dataset": held}
    answer = await alice_app.post("/transmissions", json=body)
    assert answer.status_code == status
    assert slug(answer) == (problem or slug(answer))


async def test_bodies_that_are_no_requests(alice_app):
    broken = await alice_app.post("/transmissions", content=b'{"dataset": ', headers={"Content-Type": "application/json"})
    assert (broken.status_code, slug(broken)) == (422, "malformed-request")
    assert "not JSON" in broken.json()["detail"]
    long = await alice_app.post("/transmissions", json={"dataset": "0" * 64, "code": "x" * 5000})
    assert len(long.text) < 1000

    def body(size):
        return b'{"dataset": "' + b"0" * 64 + b'", "code": "' + b"x" * (size - 91) + b'"}'

    for size, status in ((1 << 20, 404), ((1 << 20) + 1, 413)):
        answer = await alice_app.post("/transmissions", content=body(size), headers={"Content-Type": "application/json"})
        assert (len(body(size)), answer.status_code) == (size, status)
    assert slug(answer) == "limit-exceeded"


async def test_unknown_things(alice_app):
    for path in ("/transmissions/" + "0" * 32, "/nothing", "/transmissions/x"):
        assert (await alice_app.get(path)).status_code in (404, 422)
        slug(await alice_app.get(path))
    assert slug(await alice_app.post("/transmissions/" + "0" * 32 + "/cancel")) == "not-found"


async def test_bob_down_is_told(alice_app):
    held = (await alice_app.post("/datasets", content=b"x", headers=OCTETS)).json()["id"]
    started = await alice_app.post("/transmissions", json={"dataset": held, "code": "uniform"})
    assert started.status_code == 202
    async with asyncio.timeout(20):
        while (record := (await alice_app.get(started.headers["location"])).json())["state"] in ("queued", "running"):
            await asyncio.sleep(0.02)
    assert record["state"] == "interrupted"
    assert record["error"]["type"].endswith("peer-lost")
    assert "cannot connect" in record["error"]["detail"]
    assert record["resuming"]  # by herself, later
    assert (await alice_app.delete(started.headers["location"])).status_code == 409
    assert (await alice_app.post(started.headers["location"] + "/cancel")).status_code == 202
    async with asyncio.timeout(20):
        while (await alice_app.delete(started.headers["location"])).status_code != 204:
            await asyncio.sleep(0.02)


async def test_a_full_disk_is_told(alice_app, monkeypatch):
    """An upload, and the database: 507, and nothing is kept; a transmission that cannot be saved is told from memory."""
    import errno
    import sqlite3

    from shared.service import store

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_database(*_):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        answer = await alice_app.post("/datasets", content=b"x", headers=OCTETS)
        assert (answer.status_code, slug(answer)) == (507, "storage-full")
        assert "make room" in answer.json()["detail"]
    assert (await alice_app.get("/datasets")).json()["datasets"] == []
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "_put", full_database)
        answer = await alice_app.post("/datasets", content=b"x", headers=OCTETS)
        assert (answer.status_code, slug(answer)) == (507, "storage-full")
    held = (await alice_app.post("/datasets", content=b"x", headers=OCTETS)).json()["id"]
    started = await alice_app.post("/transmissions", json={"dataset": held, "code": "uniform"})
    monkeypatch.setattr(store.Store, "_put", full_database)
    async with asyncio.timeout(20):
        while (record := (await alice_app.get(started.headers["location"])).json())["state"] in ("queued", "running"):
            await asyncio.sleep(0.02)
    assert record["state"] == "interrupted"


async def test_pages_of_other_origins_are_refused(alice_app):
    """A browser would send these for any page; programs, and pages of Alice's own origin, are served."""
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = await alice_app.post("/datasets", content=b"x", headers={**OCTETS, **headers})
        assert (answer.status_code, slug(answer)) == (403, "forbidden-origin")
        assert (await alice_app.get("/datasets", headers=headers)).status_code == 200
    own = await alice_app.post("/datasets", content=b"x", headers={**OCTETS, "Origin": "http://alice"})
    assert own.status_code == 201
    assert own.headers["x-content-type-options"] == "nosniff"
    assert own.headers["content-security-policy"].startswith("default-src 'none'")
    assert not any(name.startswith("access-control") for name in own.headers)
    assert "'self'" in (await alice_app.get("/docs")).headers["content-security-policy"]


async def test_the_queue_is_in_order_and_its_places_are_told(alice_app):
    held = (await alice_app.post("/datasets", content=b"x", headers=OCTETS)).json()["id"]
    urls = []
    for _ in range(4):
        urls.append((await alice_app.post("/transmissions", json={"dataset": held, "code": "uniform"})).headers["location"])
    async with asyncio.timeout(20):  # the first waits for its Bob with the only worker
        while (await alice_app.get(urls[0])).json()["state"] == "queued":
            await asyncio.sleep(0.02)
    assert [(await alice_app.get(url)).json()["queue_position"] for url in urls] == [None, 1, 2, 3]
    assert (await alice_app.post(urls[0] + "/cancel")).status_code == 202
    async with asyncio.timeout(20):
        while (await alice_app.get(urls[1])).json()["state"] == "queued":
            await asyncio.sleep(0.02)
    assert [(await alice_app.get(url)).json()["queue_position"] for url in urls[1:]] == [None, 1, 2]


async def test_paused_and_cancelled_without_a_bob_leaves_nothing(alice_app, tmp_path):
    held = (await alice_app.post("/datasets", content=b"x", headers=OCTETS)).json()["id"]
    url = (await alice_app.post("/transmissions", json={"dataset": held, "code": "uniform"})).headers["location"]
    assert (await alice_app.post(url + "/pause")).json()["state"] == "paused"
    await asyncio.sleep(0.3)
    assert (await alice_app.get(url)).json()["state"] == "paused"
    assert (await alice_app.post(url + "/resume")).json()["state"] != "paused"
    async with asyncio.timeout(20):
        while (await alice_app.get(url)).json()["state"] != "interrupted":
            await asyncio.sleep(0.02)
        await alice_app.post(url + "/cancel")
        while (await alice_app.get(url)).json()["state"] != "cancelled":
            await asyncio.sleep(0.02)
    assert list((tmp_path / "alice" / "transmissions").iterdir()) == []
    assert (await alice_app.delete(url)).status_code == 204
