"""The examples in the OpenAPI document: calls to be made in this order, with their answers.

A test repeats the calls and compares the answers.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections import defaultdict
from pathlib import Path
from typing import Any

from flask import Flask

FILE = Path(__file__).parent / "examples.json"

Example = dict[str, Any]  # name, call ("GET /v1/chats/1"), body, status, answer; and `values` of its path and query


def by_operation(app: Flask) -> dict[tuple[str, str], list[Example]]:
    """The examples of each endpoint and method."""
    found = defaultdict(list)
    addresses = app.url_map.bind("localhost")
    for step in json.loads(FILE.read_text("utf-8")):
        if "call" in step:
            method, _, url = step["call"].partition(" ")
            path, _, query = url.partition("?")
            endpoint, values = addresses.match(path, method)
            found[endpoint, method].append(step | {"values": {**values, **dict(urllib.parse.parse_qsl(query))}})
    return found


def attach(operation: dict[str, Any], examples: list[Example]) -> None:
    """Adds the examples to an operation, where OpenAPI expects them: its parameters, body and answers."""
    for example in examples:
        _show_in(operation.get("requestBody", {}), example, "body")
        _show_in(operation["responses"].get(str(example["status"]), {}), example, "answer")
        for parameter in operation.get("parameters", ()):
            if parameter["name"] in example["values"]:
                value = example["values"][parameter["name"]]
                parameter["example"] = int(value) if str(value).isdigit() else value


def _show_in(target: dict[str, Any], example: Example, what: str) -> None:
    if what not in example:
        return
    for kind, content in target.get("content", {}).items():
        if kind.endswith("json"):
            name = re.sub(r"\W+", "_", example["name"].lower()).strip("_")
            content.setdefault("examples", {})[name] = {"summary": example["name"], "value": example[what]}
