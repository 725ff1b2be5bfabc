"""The console without a browser: who may call it, what Bob tells it, and what it says where the services are not there."""

import asyncio
import json
import re

import httpx
import numpy as np
import pytest

from bob.app import create_app as create_bob
from harness.console import app as console_app
from harness.console.app import create_app
from harness.console.settings import ConsoleSettings
from harness.console.watching import Watch
from shared.code.models import preset
from shared.code.size import FBits
from shared.service.records import CodeReference, Dataset, FBitsRecord, Transmission
from shared.service.settings import Settings

TEXT = (b"It was the best of times, it was the worst of times. " * 3000)[:100_000]


@pytest.fixture
async def console(cluster):
    """The console's application over ASGITransport."""
    async for one in serve(ConsoleSettings(alice_url=cluster.alice, bob_url=cluster.bob)):
        yield one


async def serve(settings):
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000", timeout=30) as http,
    ):
        yield http


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Host": "evil.example"}, 400),  # a name of somebody else's that points at us
        ("POST", {"Origin": "https://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Origin": "http://127.0.0.1:8000"}, 200),
        ("POST", {}, 200),
    ],
)
async def test_other_sites_may_not_use_it(console, method, headers, status):
    path = "/" if method == "GET" else "/datasets?name=x"
    answer = await console.request(method, path, headers=headers, content=b"abc" if method == "POST" else None)
    assert answer.status_code == status


async def test_pages_load_nothing_from_elsewhere(console):
    page = await console.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for name in ("console.css", "figures.css", "console.js", "theme.js", "icon.svg"):
        one = await console.get(f"/static/{name}")
        assert one.status_code == 200
        assert "http://" not in one.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in one.text


async def test_services_that_are_not_there_are_named_in_a_sentence():
    async for console in serve(ConsoleSettings(alice_url="http://127.0.0.1:9", bob_url="http://127.0.0.1:9")):
        page = await console.get("/")
        assert page.status_code == 200
        assert "Alice does not answer at http://127.0.0.1:9" in page.text
        answer = await console.get(f"/runs/{'0' * 32}")
        assert (answer.status_code, "does not answer" in answer.json()["detail"]) == (502, True)
        assert (await console.get("/readyz")).json()["alice"] == "not there"


def test_bob_tells_what_he_has_decoded(cluster, client):
    result = client.transmit(client.post_octets(TEXT, "x")["id"], "frequency")
    url = f"{cluster.bob}/transmissions/{result['transmission']}/decoded"
    with httpx.Client(trust_env=False) as http:
        found = http.get(url, params={"first": 70_000, "count": 500}).json()
        newest = http.get(url, params={"count": 10}).json()
        costs = http.get(url.replace("decoded", "bits"), params={"per": "token"}).json()["per_token"]
        assert http.get(url, params={"first": 1 << 40}).json()["pieces"] == []
    (piece,) = found["pieces"]
    assert (found["checked"], found["decoded"], piece["provisional"]) == (len(TEXT), len(TEXT), False)
    assert bytes(piece["tokens"]) == TEXT[70_000:70_500]
    assert np.allclose(piece["bits"], costs[70_000:70_500], atol=1e-4)
    assert (newest["pieces"][0]["first"], bytes(newest["pieces"][0]["tokens"])) == (len(TEXT) - 10, TEXT[-10:])


async def test_what_bob_has_only_heard_of_is_an_empty_text(tmp_path):
    """His record is there before the first token: a page opened in that moment must not say that nothing is held."""
    app, identifier, spec = create_bob(Settings(state_directory=tmp_path, warm="")), "0" * 32, preset("ngram")
    dataset = Dataset(
        id="", sha256="", vocabulary="bytes", vocabulary_size=256, tokens=9, bytes=None, media_type="text/plain", name="x"
    )
    record = Transmission(
        id=identifier,
        dataset=dataset,
        code=CodeReference.of("ngram", spec),
        f_bits=FBitsRecord.of(FBits(spec=1, source=1, assets=0)),
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bob", timeout=30) as http,
    ):
        app.state.services.registry.add(record)
        for path, status in (("decoded", 200), ("decoded?first=0", 200), ("reconstruction", 409)):
            answer = await http.get(f"/transmissions/{identifier}/{path}")
            assert answer.status_code == status
            assert answer.json().get("pieces", []) == []


async def test_token_ids_are_shown_as_numbers(console, cluster, client):
    ids = np.arange(3000, dtype="<u2") % 300
    posted = await console.post("/datasets?form=uint16&vocabulary_size=300&name=ids", content=ids.tobytes())
    assert posted.json()["vocabulary_size"] == 300
    begun = await console.post("/transmissions", json={"dataset": posted.json()["id"], "codes": ["frequency"]})
    page = begun.json()["location"]
    lines = [line async for line in follow(console, page)]
    assert '"settled"' in lines[-1]
    text = (await console.get(page)).text
    assert ">299 </span>" in text
    assert "9.28771" not in text  # log2 300 = 8.22882
    assert "8.22882" in text


async def follow(console, page):
    """The data of a page's events until their end."""
    async with console.stream("GET", f"{page}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                yield line


async def test_the_last_thing_a_page_is_told_is_how_it_ended(cluster, client, console, monkeypatch):
    """What is asked for between two pictures takes its time: what has ended meanwhile must still be shown."""
    table, read = console_app._table, Watch._read

    async def slow_table(held, sha256, identifier):
        await asyncio.sleep(1.0 if held.watches._held[identifier].settled else 0)
        return await table(held, sha256, identifier)

    async def slow_read(watch):
        await asyncio.sleep(0.1)
        await read(watch)

    monkeypatch.setattr(console_app, "_table", slow_table)
    monkeypatch.setattr(Watch, "_read", slow_read)
    data = np.random.default_rng(77).integers(0, 90, 2_000_000, dtype=np.uint8).tobytes()
    asked = {"dataset": client.post_octets(data, "noise")["id"], "code": {"model": {"kind": "ngram"}, "block_tokens": 1 << 21}}
    async with httpx.AsyncClient(base_url=cluster.alice, trust_env=False) as alice:
        begun = (await alice.post("/transmissions", json=asked)).json()["id"]
        await alice.post(f"/transmissions/{begun}/pause")
        page = asyncio.create_task(console.get(f"/runs/{begun}/events"))
        await asyncio.sleep(1.5)
        await alice.post(f"/transmissions/{begun}/resume")
        events = (await page).text
    assert "event: end" in events
    texts = [found["text"] for found in map(json.loads, re.findall(r"^data: (\{.*)$", events, re.MULTILINE)) if "text" in found]
    provisional = [len(re.findall(r'class="[^"]* p"', one)) for one in texts]
    assert max(provisional) > 0
    assert provisional[-1] == 0


CURVE = b"A step curve, of data that no other test sends: it was the age of wisdom. " * 300
CORPUS = b"it was the age of foolishness, it was the epoch of belief. " * 300


async def test_a_step_curve_is_made_of_transmissions_and_only_of_those_that_lack(console, client):
    dataset = client.post_octets(CURVE, "curve.txt")["id"]
    page = (await console.get(f"/data/{dataset}")).text
    assert "No points yet." in page
    corpus = (await console.post("/corpora?name=foolish.txt", content=CORPUS)).json()["id"]
    wish = {"dataset": dataset, "codes": ["frequency", "uniform"], "corpus": corpus, "steps": "3, 0,1"}
    begun = await console.post("/curve", json=wish)
    assert begun.json() == {"location": f"/data/{dataset}", "begun": 6}
    assert (await console.post("/curve", json=wish | {"steps": "0,1,2"})).json()["begun"] == 2
    async with asyncio.timeout(60):
        while "8 points" not in (page := (await console.get(f"/data/{dataset}")).text):
            await asyncio.sleep(0.1)
    assert "more under way" not in page
    made = client._json("GET", f"{client._urls.bob}/transmissions")["transmissions"]
    mine = {(one["code"]["name"], one["steps"]): one for one in made if one["dataset"]["sha256"] == dataset}
    assert {(code, k) for code in ("frequency", "uniform") for k in (0, 1, 2, 3)} == set(mine)
    for (code, k), one in mine.items():
        assert (one["state"], one["regime"], one["corpus"]) == ("verified", "frozen", corpus if k else None)
        assert f"{one['sk_bits'] / 8:,.0f} at k = {k}" in page, code
    assert "foolish.txt" in page
    assert "frozen at k = 3" in page
    assert "frequency, k = 3" in page


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"steps": "0,1"}, "Steps above 0 need a corpus"),
        ({"steps": "x"}, "is no list of steps"),
        ({"steps": ",".join(map(str, range(49))), "corpus": "0" * 64}, "49 transmissions; ask for 48 at most"),
        ({"steps": "1", "corpus": "0" * 64}, "does not hold it"),
        ({"steps": "1", "corpus": "none"}, "makes no sense"),
    ],
)
async def test_what_makes_no_curve_is_told(console, client, wish, said):
    dataset = client.post_octets(CURVE, "curve.txt")["id"]
    answer = await console.post("/curve", json={"dataset": dataset, "codes": ["uniform"], **wish})
    assert answer.is_error
    assert said in answer.json()["detail"]


async def test_a_corpus_of_token_ids_and_where_there_is_none(console, client):
    dataset = client.post_tokens([1, 2, 3, 310] * 50, 311, "ids")["id"]
    assert "hold no corpus with m = 311 yet" in (await console.get(f"/data/{dataset}")).text
    posted = await console.post("/corpora?name=c.ids&vocabulary_size=311", content=np.arange(311, dtype="<u2").tobytes())
    assert (posted.status_code, posted.json()["vocabulary_size"]) == (200, 311)
    assert "hold no corpus" not in (await console.get(f"/data/{dataset}")).text
    wish = {"dataset": dataset, "codes": ["frequency"], "corpus": posted.json()["id"], "steps": "1"}
    assert (await console.post("/curve", json=wish)).json()["begun"] == 1


async def test_bob_draws_a_sample(console, client):
    result = client.transmit(client.post_octets(TEXT, "x")["id"], "frequency")
    path = f"/runs/{result['transmission']}/sample"
    drawn = client.sample(result["transmission"], 50, 3)
    html = (await console.post(path, json={"tokens": 50, "seed": 3})).json()["html"]
    assert f"{drawn['flips']:,}</dd>" in html
    assert f"{drawn['nll_bits']:,.1f}</dd>" in html
    assert drawn["text"] in html
    for wrong in ({"tokens": 0}, {"tokens": 5, "seed": -1}, {}):
        assert (await console.post(path, json=wrong)).status_code == 422
    missing = await console.post(f"/runs/{'0' * 32}/sample", json={"tokens": 1})
    assert (missing.status_code, "No transmission" in missing.json()["detail"]) == (404, True)
