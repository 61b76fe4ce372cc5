"""The moments of the HTTP door in traces, where replies and bodies take their time."""

from __future__ import annotations

import pytest
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings
from despina.frontends.http.handler.traced import TracedRequest, traced_if_chosen
from despina.frontends.http.request.request import HttpRequest
from despina.schema.inference import InferenceRequest


class Sink:
    def __init__(self):
        self.taken = []

    def take(self, finished):
        self.taken.append([note[0] for note in finished.notes])

    def retire(self, setting):
        pass

    def close(self):
        pass


class Slow(HttpRequest):
    """A request whose reply leaves when `leave` is called."""

    def reply_and_tell(self, on_sent, status, content_type=b"", buffers=(), fields=()):
        self.status = status
        self.leave = on_sent

    def abandon(self):
        self._is_gone = True
        self._on_gone()


def chosen(sink):
    tracer = Tracer(TraceSettings(level=["TIMESTAMPS"], rate=1, file="x"), lambda _: True, lambda _: sink)
    request = Slow(b"POST", b"/", {}, b"")
    return tracer, request, traced_if_chosen(tracer, request, InferenceRequest("m", {}))


@pytest.mark.interpreted
async def test_sending_ends_when_the_reply_has_left():
    """Goal: the trace is finished by the last byte, not by the handler."""
    sink = Sink()
    tracer, request, traced = chosen(sink)
    assert isinstance(traced, TracedRequest)
    traced.reply(200)
    tracer.close()
    assert (request.status, sink.taken) == (200, [])
    request.leave()
    tracer.close()
    assert sink.taken == [["HTTP_RECV_START", "HTTP_RECV_END", "HTTP_SEND_START", "HTTP_SEND_END"]]


@pytest.mark.interpreted
async def test_leaving_clients_are_seen_through_it():
    """Goal: what the transport says of the client, and what the handler wants to be told, pass both ways."""
    _, request, traced = chosen(Sink())
    told = []
    traced.when_gone(lambda: told.append(True))
    assert not traced.is_gone
    request.abandon()
    assert traced.is_gone
    assert told == [True]
