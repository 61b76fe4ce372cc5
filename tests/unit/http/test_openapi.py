"""The OpenAPI document and the routes are the same API; its page stands alone."""

from __future__ import annotations

import re

import orjson
import pytest
import trio
from despina.frontends.http.handler import openapi
from despina.frontends.http.handler.openapi import openapi_document, templates_of
from despina.frontends.http.handler.openapi_operations import OPERATIONS
from despina.frontends.http.handler.routes import Route
from despina.frontends.restricted import CATEGORIES
from despina.schema.wire.generated.inference import ModelConfig

VALUES = {"model": "addsub", "version": "1", "region": "r", "repository": "r"}


@pytest.fixture
def routes(monkeypatch):
    """Every table of routes that is described while the test runs."""
    tables = []
    made = openapi.openapi_document

    def noted(described, version):
        tables.append(described)
        return made(described, version)

    monkeypatch.setattr(openapi, "openapi_document", noted)
    return tables


async def document_of(door):
    reply = await door.ask(b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    return orjson.loads(reply.body)


def references(value):
    """Every `$ref` in a JSON value."""
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_document_and_table_are_the_same(door, routes):
    """Goal: each method of each route is in the document, and nothing else. Method: the patterns themselves decide."""
    document = await document_of(door)
    (table,) = routes
    operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    unseen = {(route.pattern, method) for route in table for method in (*route.handlers, *route.slow_handlers)}
    for method, path in operations:
        sample = path.format(**VALUES)
        route = next(route for route in table if re.fullmatch(route.pattern, sample))
        assert method.encode() in {**route.handlers, **route.slow_handlers}, path
        assert document["paths"][path][method.lower()]["tags"] == [route.category]
        unseen.discard((route.pattern, method.encode()))
    assert not unseen
    assert {one["tags"][0] for methods in document["paths"].values() for one in methods.values()} == set(CATEGORIES)


async def test_every_description_is_of_a_route(door):
    """Goal: no operation is described that no route has any more."""
    document = await document_of(door)
    assert not {one for one in OPERATIONS if one[0].lower() not in document["paths"].get(one[1], {})}


async def test_every_operation_is_served(door):
    """Goal: what the document lists has a handler behind it, and answers with a documented status and content type."""
    document = await document_of(door)
    door.engine.load_gate.set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            request = f"{method.upper()} {path.format(**VALUES)} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}"
            reply = await door.ask(request.encode())
            answer = operation["responses"][str(reply.status)]
            if "$ref" in answer:
                answer = document["components"]["responses"][str(reply.status)]
            if reply.body:
                assert reply.headers["content-type"] in answer["content"], path


async def test_unused_methods_are_refused(door):
    """Goal: a method that the document does not list gets 405."""
    for path, methods in (await document_of(door))["paths"].items():
        unlisted = "POST" if "post" not in methods else "GET" if "get" not in methods else "PUT"
        reply = await door.ask(f"{unlisted} {path.format(**VALUES)} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())
        assert reply.status == 405, path


async def test_references_and_names(door):
    """Goal: each reference leads somewhere, each schema is needed, and each operation has a name of its own."""
    document = await document_of(door)
    used = set(references(document))
    components = document["components"]
    for reference in used:
        _, kind, name = reference.removeprefix("#/").split("/")
        assert name in components[kind], reference
    assert {name for name in components["schemas"] if f"#/components/schemas/{name}" not in used} == set()
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))
    for path, methods in document["paths"].items():
        for operation in methods.values():
            listed = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
            assert listed == re.findall(r"\{(\w+)\}", path)


async def test_configuration_is_whole(door):
    """Goal: the schema of a configuration has every field of the message."""
    described = (await document_of(door))["components"]["schemas"]["ModelConfig"]["properties"]
    assert {"name", "max_batch_size", "dynamic_batching", "instance_group"} <= set(described)
    assert len(described) == len(ModelConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("pattern", "templates"),
    [
        ("/v2", ["/v2"]),
        (r"/a\.json", ["/a.json"]),
        ("/m/(?P<model>[^/]+)(?:/v/(?P<version>[0-9]+))?/x", ["/m/{model}/x", "/m/{model}/v/{version}/x"]),
        ("(?:/m/(?P<model>[^/]+)|/v2)/t", ["/v2/t", "/m/{model}/t"]),
        ("(?:a|b)(?:c(?:d)?)?", ["a", "ac", "acd", "b", "bc", "bcd"]),
    ],
)
def test_templates(pattern, templates):
    """Goal: a pattern's optional parts and choices become paths of their own, those with the fewest groups first."""
    assert templates_of(pattern) == templates


def test_unknown_route_is_noticed():
    """Goal: a route that nothing describes fails, rather than to be left out."""
    with pytest.raises(KeyError):
        openapi_document([Route("/v3", "metadata", {b"GET": lambda request, match: None})], "1")


async def test_page_stands_alone(door):
    """Goal: the page needs nothing but the document, from the same place."""
    reply = await door.ask(b"GET /docs HTTP/1.1\r\nHost: h\r\n\r\n")
    page = reply.body.decode()
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.search(r"https?://|\bsrc=|@import|url\(|<link", page)
    assert re.findall(r'fetch\("([^"]+)"\)', page) == ["openapi.json"]
    assert "innerHTML" not in page


async def test_both_may_be_restricted(open_door):
    """Goal: the document and the page belong to the category `metadata`."""
    door = await open_door(restricted={"metadata": (b"key", b"secret")})
    with trio.fail_after(10):
        for path in (b"/openapi.json", b"/docs"):
            assert (await door.ask(b"GET %b HTTP/1.1\r\n\r\n" % path)).status == 403
            assert (await door.ask(b"GET %b HTTP/1.1\r\nkey: secret\r\n\r\n" % path)).status == 200
