"""The server that a library in a process of its own asks: it is in another one, and so what is asked goes there.

InferAsync ──"submit"──▶ a nested call        its answers ──▶ the library's thread ──▶ callbacks
anything else ──"library"──▶ the server's own object, which answers as if the library were there
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

import orjson

from ...engine.port.nested import Origin
from ...engine.port.nested_request import NestedRequest
from ...native.dispatching import answer_others, code_of
from ...native.servers import note_server
from ...schema.fault import Unsupported
from ...schema.tensor import Tensor

if TYPE_CHECKING:
    from ...engine.port.nested import NestedCall
    from ...engine.port.served import Answer
    from ...native.extension_port import Extension
    from ..python.isolated.asking import ChildEngine
    from ..python.isolated.setup import Setup

log = logging.getLogger("despina.backends.native")

_START, _END = 1, 2


def serve_from_afar(native: Extension, engine: ChildEngine, setup: Setup) -> None:
    """Makes the library's object for the server."""
    address = native.server_new()
    note_server(engine, address)
    answer_others(native, _FarServer(native, engine, address, Origin(setup.instance_name, setup.name)).answer)


class _FarServer:
    """For the library's threads, and the one that reads answers."""

    def __init__(self, native: Extension, engine: ChildEngine, address: int, origin: Origin) -> None:
        self._native = native
        self._engine = engine
        self._address = address
        self._origin = origin
        self._calling = threading.Lock()

    def answer(self, _: int, operation: str, arguments: bytes) -> bytes:
        """Raises Fault."""
        if operation == "submit":
            self._submit(*orjson.loads(arguments))
            return b""
        return self._engine.ask_as_library(operation, arguments)

    def _submit(self, pointer: int) -> None:
        ticket, address, name, version, id, inputs, outputs, parameters, flags, sequence, _, timeout_us, _ = (
            self._native.take(pointer)
        )
        if inputs and inputs[0][4]:
            raise Unsupported("raw inputs are not taken from a library in a process of its own")
        self._engine.ask_as_library("find", orjson.dumps([name, version]))
        request = NestedRequest(
            name,
            {entry[0]: Tensor(*entry[:4]) for entry in inputs},
            model_version=version,
            id=id,
            outputs=outputs,
            parameters=parameters,
            timeout_us=timeout_us,
            correlation_id=sequence,
            sequence_start=flags & _START != 0,
            sequence_end=flags & _END != 0,
        )
        made: list[NestedCall] = []
        on_answer = partial(self._answered, address, ticket, made)
        with self._calling:
            made.append(self._engine.call(request, self._origin, on_answer, decoupled=True, waits=False))

    def _answered(self, address: int, ticket: int, made: list[NestedCall], answer: Answer) -> None:
        try:
            if not answer.final:
                with self._calling:  # it may have been answered before it is known here
                    made[0].consumed()
            self._native.sweep(self._address)
            self._give(address, ticket, answer)
        except Exception as problem:  # nobody else would answer
            log.exception("an answer to '%s' is lost", self._origin.name)
            self._native.fail(self._address, address, ticket, answer.final, False, 1, str(problem), None)

    def _give(self, address: int, ticket: int, answer: Answer) -> None:
        fault, response = answer.fault, answer.response
        if fault is not None:
            code = code_of(fault)
            self._native.fail(self._address, address, ticket, answer.final, False, code, fault.message, None)
        elif response is None:
            self._native.answer(self._address, address, ticket, answer.final, False, "", "0", None, None, None)
        else:
            outputs = [(item.name, item.datatype, item.shape, item.memory()) for item in response.outputs]
            self._native.answer(
                self._address,
                address,
                ticket,
                answer.final,
                False,
                response.model_name,
                response.model_version,
                outputs,
                response.parameters,
                None,
            )
