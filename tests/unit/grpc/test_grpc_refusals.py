"""A verbose log tells of each refused inference, in the reference server's words."""

from __future__ import annotations

import logging

import pytest

from tests.unit.grpc.test_grpc_extensions import classes, request

UNKNOWN_MODEL = "Request for unknown model: 'nope' is not found"
DECOUPLED = "ModelInfer RPC doesn't support models with decoupled transaction policy"


def told(caplog):
    return [record.message for record in caplog.records if "failed" in record.message]


async def ask(door, rpc, message):
    client = await door.connect()
    await client.send(client.call(1, f"/inference.GRPCInferenceService/{rpc}", message.SerializeToString()))
    return await client.answer(1)


@pytest.mark.parametrize(
    ("rpc", "message", "line"),
    [
        ("ModelInfer", request("nope", id="r"), f"[request id: r] Infer failed: {UNKNOWN_MODEL}"),
        ("ModelInfer", request("nope"), f"[request id: <id_unknown>] Infer failed: {UNKNOWN_MODEL}"),
        ("ModelInfer", classes(1, model="streams", id="r"), f"[request id: r] Infer failed: {DECOUPLED}"),
        ("ModelStreamInfer", request("nope", id="r"), f"[request id: r] Infer failed: {UNKNOWN_MODEL}"),
        ("ModelStreamInfer", request("nope"), f"[request id: <id_unknown>] Infer failed: {UNKNOWN_MODEL}"),
    ],
)
async def test_refusals_are_logged(door, caplog, rpc, message, line):
    """Goal: one line each, with its id where there is one; at verbose level 0 none."""
    await ask(door, rpc, message)
    assert told(caplog) == []
    caplog.set_level(logging.DEBUG, "despina.grpc")
    await ask(door, rpc, message)
    assert told(caplog) == [line]
