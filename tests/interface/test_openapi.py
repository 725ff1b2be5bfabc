"""The interface as it is described: unchanged unless meant, an example everywhere, readable without a network."""

import json
import re
from pathlib import Path

import pytest

import alice.app
import bob.app
import shared.service.app
import shared.service.assets
import shared.service.errors
import shared.service.records
from shared.service.examples import EXAMPLES
from shared.service.settings import Settings

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"
SERVICES = {"alice": alice.app.create_app, "bob": bob.app.create_app}


def document(service, tmp_path):
    return SERVICES[service](Settings(state_directory=tmp_path)).openapi()


@pytest.mark.parametrize("service", SERVICES)
def test_snapshot(service, tmp_path, request):
    path = SNAPSHOTS / f"openapi-{service}.json"
    found = document(service, tmp_path)
    found["info"]["version"] = "…"
    if request.config.getoption("--refresh"):
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == found


@pytest.mark.parametrize("service", SERVICES)
def test_an_example_everywhere(service, tmp_path):
    schema = document(service, tmp_path)

    def has(item) -> bool:
        if "$ref" in item:
            item = schema["components"]["schemas"][item["$ref"].rpartition("/")[2]]
        return "example" in item or "examples" in item

    missing = []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            places = {f"parameter {one['name']}": one for one in operation.get("parameters", ())}
            places |= {f"body {kind}": one for kind, one in operation.get("requestBody", {}).get("content", {}).items()}
            for status, answer in operation["responses"].items():
                places |= {f"{status} {kind}": one for kind, one in answer.get("content", {}).items()}
            missing += [
                f"{method} {path}: {name}" for name, one in places.items() if not (has(one) or has(one.get("schema", {})))
            ]
            assert operation.get("description"), f"{method} {path}"
    assert missing == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_fit_their_models(name):
    rooms = (alice.app, bob.app, shared.service.app, shared.service.assets, shared.service.records, shared.service.errors)
    model = next(getattr(room, name) for room in rooms if hasattr(room, name))
    assert model.model_validate(EXAMPLES[name]).model_dump(mode="json").keys() <= EXAMPLES[name].keys()


async def test_docs_need_no_network(alice_app):
    page = await alice_app.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 3
    assert "https://" not in page.text
    for source in sources:
        assert source.startswith("/"), source
        assert (await alice_app.get(source)).status_code == 200
