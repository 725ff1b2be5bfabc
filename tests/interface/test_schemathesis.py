"""Requests made up from the description: no 500, every error a problem document, every answer as described."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

import alice.app
import bob.app
from shared.service.settings import Settings

SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def operations(application):
    schema = schemathesis.openapi.from_dict(application.openapi())
    return [found.ok() for found in schema.get_all_operations()]


def problems(ctx, response, case):
    """Every error is a problem document that says its own status."""
    assert response.status_code != 500
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"], response.headers
        document = response.json()
        assert document["status"] == response.status_code
        assert document["detail"]


def busy_is_told(ctx, response, case):
    """503 and 507 are answers, not failures; `problems` has looked at them."""
    if response.status_code not in (503, 507):
        not_a_server_error(ctx, response, case)


CHECKS = [busy_is_told, content_type_conformance, response_schema_conformance, status_code_conformance, problems]
OPERATIONS = [
    (service, operation)
    for service, application in (("alice", alice.app.create_app(Settings())), ("bob", bob.app.create_app(Settings())))
    for operation in operations(application)
]
CASES = [
    pytest.param(service, operation, mode, id=f"{service} {operation.label} {mode.value}")
    for service, operation in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or operation.path_parameters or operation.query or len(operation.body)
]


@pytest.mark.parametrize(("service", "operation", "mode"), CASES)
def test_operation(cluster, service, operation, mode):
    ask(cluster, service, operation, mode, {})


@pytest.mark.parametrize(("service", "operation", "mode"), [case for case in CASES if "DELETE" not in case.id])
def test_operation_on_what_is_there(cluster, known, service, operation, mode):
    ask(cluster, service, operation, mode, known)


@pytest.fixture(scope="module")
def known(client):
    """A dataset and a verified transmission."""
    dataset = client.post_octets(b"made-up requests", "x")["id"]
    return {"datasets": dataset, "transmissions": client.transmit(dataset, "uniform")["transmission"]}


def ask(cluster, service, operation, mode, known):
    @SETTINGS
    @given(st.data())
    def one(data):
        case = data.draw(operation.as_strategy(generation_mode=mode))
        kind = operation.path.split("/")[1]
        if kind in known and "identifier" in (case.path_parameters or {}):
            case.path_parameters["identifier"] = known[kind]
        if known and isinstance(case.body, dict) and "dataset" in case.body:
            case.body["dataset"] = known["datasets"]
        case.call_and_validate(base_url=getattr(cluster, service), checks=CHECKS, timeout=30)

    one()
