"""schemathesis with the OpenAPI document against the real app."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.support.api import MakeClient
from tests.support.db import on

pytestmark = pytest.mark.system


@pytest.fixture(scope="session")
def api_schema(server: str, template: str, make_client: MakeClient) -> Iterator[schemathesis.BaseSchema]:
    name = template + "_openapi"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name} template {template}")
        client = make_client(on(server, name))
        # Something to find: ids that are easily guessed.
        for number in range(1, 4):
            client.post("/v1/clients", json={"client_id": number, "username": "a", "location": "b"})
            client.post(
                "/v1/operators",
                json={"operator_id": number, "operator_name": "a", "operator_group": "b", "store_id": number},
            )
            chat = {"chat_id": number, "conversation_id": number, "client_id": number, "operator_id": number}
            client.post("/v1/chats", json=chat | {"payload": "x"})
        yield schemathesis.openapi.from_wsgi("/openapi.json", client.application)
        admin.execute(f"drop database {name} with (force)")


# For a long run: SHOPTALK_EXAMPLES=2000 bin/test tests/test_openapi.py --timeout 0
EXAMPLES = int(os.environ.get("SHOPTALK_EXAMPLES", "20"))
SETTINGS = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_described(api_schema: schemathesis.BaseSchema, mode: GenerationMode) -> None:
    """Requests that fit the description, and such that do not."""
    tried = 0
    for result in api_schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(SETTINGS, max_examples=EXAMPLES)
        def check(case: schemathesis.Case) -> None:
            nonlocal tried
            tried += 1
            # No schema can say that spans overlap or that a time zone is unknown.
            beyond = [positive_data_acceptance] if "hours" in case.path else []
            case.call_and_validate(excluded_checks=beyond)

        if mode is GenerationMode.POSITIVE or operation.body or operation.query or operation.path_parameters:
            check()
    assert tried > 500


@pytest.mark.timeout(600)
def test_no_sequence_of_requests_is_answered_with_a_5xx(api_schema: schemathesis.BaseSchema) -> None:
    """What one answer gives (an id, a Location), the next request uses."""
    tried = 0

    class Sequence(api_schema.as_state_machine()):  # type: ignore[misc]
        def validate_response(
            self, response: schemathesis.Response, case: schemathesis.Case, *_: Any, **__: Any
        ) -> None:
            nonlocal tried
            tried += 1
            case.validate_response(response, checks=[not_a_server_error])

    Sequence.run(settings=settings(SETTINGS, max_examples=max(3, EXAMPLES // 10), stateful_step_count=10))
    assert tried > EXAMPLES // 2


def test_every_route_is_described(api_schema: schemathesis.BaseSchema, client: object) -> None:
    described = set(api_schema.raw_schema["paths"])
    app = client.application  # type: ignore[attr-defined]
    # An answer without an end is beyond OpenAPI 3.1, and beyond who tries all of it.
    undescribed = {"/v1/stream"}
    assert {
        rule.rule.replace("<", "{").replace(">", "}")
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith("pages.")  # for people
    } == described | undescribed
