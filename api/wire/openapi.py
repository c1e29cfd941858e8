"""The OpenAPI document, generated from the routes and from the models that check the input."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Flask
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from werkzeug.routing import Rule

from api.wire import examples
from api.wire.answers import ProblemOut
from api.wire.channel_fields import CHANNEL_NAME
from api.wire.needs import ANY, OPEN, Need, need_of
from api.wire.needs import needs as declare_needs

View = TypeVar("View", bound=Callable[..., Any])

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
PATH_NUMBER = {"type": "integer", "minimum": 1}
PATH_TEXTS = {"name": {"type": "string", "pattern": CHANNEL_NAME.pattern}}
REPEAT_HEADER = {
    "Idempotent-Replayed": {
        "description": "true for an idempotent repeat: the same request was accepted before, and nothing was added",
        "schema": {"const": "true"},
    }
}


@dataclass(frozen=True)
class Operation:
    """A view's input and output; `describe` attaches it to the view."""

    summary: str
    takes: type[BaseModel] | None = None
    gives: Any = None  # with status 200; None: not described
    created: type[BaseModel] | None = None  # with status 201, on routes below /v1
    problems: tuple[int, ...] = ()
    status: int = 200
    # Of the query string, by name: the smallest and largest number, or a schema.
    query: dict[str, tuple[int, int] | dict[str, Any]] = field(default_factory=dict)
    json_only: bool = False  # the body must not be a form
    list_up_to: int = 0  # the body may also be a JSON list of up to so many; 0: not


def describe(summary: str, needs: str, of: str = "nothing", **parts: Any) -> Callable[[View], View]:
    """Declares a view's needs (`api.wire.needs`), input and output. The parts are Operation's fields."""

    def attach(view: View) -> View:
        view.operation = Operation(summary, **parts)  # type: ignore[attr-defined]
        return declare_needs(needs, of)(view)

    return attach


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every described route."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    made = examples.by_operation(app)
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        view = app.view_functions[rule.endpoint]
        operation = getattr(view, "operation", None)
        if operation is not None:
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            for method in rule.methods & {"GET", "POST", "PUT", "PATCH", "DELETE"} if rule.methods else ():
                described = _operation(rule, operation, schemas) | _security(need_of(view))
                examples.attach(described, made.get((rule.endpoint, method), []))
                paths.setdefault(path, {})[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shoptalk", "version": "1", "description": "Chat between a store's clients and operators."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "an API key or a token"}},
        },
    }


def _security(need: Need | None) -> dict[str, Any]:
    """The required scope; `{}` because a server without keys requires none."""
    if need is None or need.scope == OPEN:
        return {"security": []}
    return {"security": [{}, {"key": [] if need.scope == ANY else [need.scope]}]}


def _operation(rule: Rule, operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": PATH_TEXTS.get(name, PATH_NUMBER)}
        for name in sorted(rule.arguments - (rule.defaults or {}).keys())
    ] + [{"name": name, "in": "query", "schema": _query_schema(what)} for name, what in operation.query.items()]
    described: dict[str, Any] = {
        "tags": [rule.endpoint.partition(".")[0]],
        "operationId": rule.endpoint.replace(".", "_"),
        "summary": operation.summary,
        "responses": _responses(rule, operation, schemas),
    }
    if parameters:
        described["parameters"] = parameters
    if operation.takes is not None:
        schema = _schema(operation.takes, schemas)
        many = {"type": "array", "items": {}, "minItems": 1, "maxItems": operation.list_up_to}
        json_schema = {"anyOf": [schema, many]} if operation.list_up_to else schema
        content = {"application/json": {"schema": json_schema}}
        if not operation.json_only:
            form_schema = _as_form(schemas[operation.takes.__name__])
            content |= {form: {"schema": form_schema} for form in FORMS}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _query_schema(what: tuple[int, int] | dict[str, Any]) -> dict[str, Any]:
    if isinstance(what, dict):
        return what
    return {"type": "integer", "minimum": what[0], "maximum": what[1]}


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a form, where every value is text: no numbers and no null."""
    properties = copy.deepcopy(schema["properties"])
    for name in properties:
        if "anyOf" in properties[name]:
            properties[name]["anyOf"] = [kind for kind in properties[name]["anyOf"] if kind["type"] == "string"]
            properties[name].pop("default", None)
    return schema | {"properties": properties}


def _responses(rule: Rule, operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {str(operation.status): {"description": "done"}}
    if operation.gives is not None:
        responses["200"] |= {"content": _json(operation.gives, schemas)}
    if operation.takes is not None and operation.status == 200:
        responses["200"]["headers"] = REPEAT_HEADER
    if operation.created is not None and rule.rule.startswith("/v1/"):
        responses["201"] = {"description": "created", "content": _json(operation.created, schemas)}
    problem = _schema(ProblemOut, schemas)
    for status in sorted({*operation.problems, 401, 403, 405, 429, 503}):
        responses[str(status)] = {
            "description": "see `detail`", "content": {"application/problem+json": {"schema": problem}},
        }  # fmt: skip
    return responses


def _json(shape: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": _schema(shape, schemas)}}


def _schema(shape: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The shape's JSON schema by reference; the schemas that it refers to are added to `schemas`."""
    schema = TypeAdapter(shape).json_schema(ref_template="#/components/schemas/{model}", schema_generator=_Schemas)
    schemas.update(schema.pop("$defs", {}))
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        schemas[shape.__name__] = schema
        return {"$ref": f"#/components/schemas/{shape.__name__}"}
    return schema


class _Schemas(GenerateJsonSchema):
    def tuple_schema(self, schema: Any) -> JsonSchemaValue:
        """Adds `items`, redundant beside `prefixItems`: without it the viewer at /docs shows no list."""
        described = super().tuple_schema(schema)
        return described | {"items": described["prefixItems"][-1]}
