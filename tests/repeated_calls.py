"""Calls of add/sub over gRPC that differ in their tensors only, for the fake engine of the gRPC tests; and what doors
and codecs remember of earlier requests: who uses it, and how it is forgotten."""

import numpy as np
from despina.frontends.grpc.connection.connection import Connection
from despina.frontends.grpc.handler import stream_infer, unary_infer
from despina.frontends.http.handler.infer import InferHandler
from despina.schema import kserve_grpc, kserve_grpc_plain, kserve_http, kserve_http_reply
from despina.schema.inference import ResponseTemplate
from tritonclient.grpc import service_pb2

INFER = "/inference.GRPCInferenceService/ModelInfer"


def asking(seed, *, model="addsub", id="", rows=1):
    """A request for add/sub, serialised, and the sum and difference as bytes."""
    a, b = np.random.default_rng(seed).integers(-1000, 1000, (2, rows, 16), dtype=np.int32)
    message = service_pb2.ModelInferRequest(model_name=model, id=id)
    for index, array in enumerate((a, b)):
        message.inputs.add(name=f"INPUT{index}", datatype="INT32", shape=[rows, 16])
        message.raw_input_contents.append(array.tobytes())
    return message.SerializeToString(), [(a + b).tobytes(), (a - b).tobytes()]


def with_templates(model):
    """The model's answers tell their form, as the cheapest backends' do."""
    tensors = [("OUTPUT0", "INT32", (1, 16)), ("OUTPUT1", "INT32", (1, 16))]
    template = ResponseTemplate(model.name, "1", tensors)
    compute = model._compute

    def computed(job):
        compute(job)
        if job.response is not None:
            wires = [tensor.memory() for tensor in job.response.outputs]
            job.response = template.response(job.request.id, wires)

    model._compute = computed
    return model


def outputs_in(body):
    return list(service_pb2.ModelInferResponse.FromString(body[5:]).raw_output_contents)


def watched_memory(monkeypatch):
    """A list that grows with each use of something that is remembered: "known" for an HTTP request whose model
    is known by the form of its head, "frame" for one that is made of a JSON head's frame, "form" for an HTTP answer
    whose text was made for one like it, "call" for a gRPC call that was taken whole, "plain" for its request that was
    read straight from its bytes."""
    uses = []

    def watch(owner, name, use):
        take = getattr(owner, name)

        def watched(*arguments, **more):
            found = take(*arguments, **more)
            if found:
                uses.append(use)
            return found

        monkeypatch.setattr(owner, name, watched)

    handle = InferHandler.__call__

    def handled(handler, request, match):
        if request.notes.model is not None:
            uses.append("known")
        handle(handler, request, match)

    monkeypatch.setattr(InferHandler, "__call__", handled)
    watch(kserve_http, "_filled", "frame")
    watch(kserve_http_reply._Form, "filled", "form")
    watch(Connection, "take_call", "call")
    for module in (unary_infer, stream_infer):
        watch(module, "read_plain_request", "plain")
    return uses


def frame_by_frame(monkeypatch):
    """From here on gRPC calls are taken frame by frame, and their requests read as messages."""

    def take_call(self, block, stream_id, message, grown, is_only):
        self.on_block(block, 4, stream_id)
        return False

    monkeypatch.setattr(Connection, "take_call", take_call)
    for module in (unary_infer, stream_infer):
        monkeypatch.setattr(module, "read_plain_request", lambda data: None)


def forget_heads(http):
    """What the HTTP door remembers of heads."""
    heads = http._listener.heads
    for memo in (heads._heads, heads._forms):
        memo.clear()


def forget_texts():
    """Empties what the codecs remember of earlier texts, so that the next request is read from its first byte."""
    for memo in (
        kserve_http._frames,
        kserve_http_reply._openings,
        kserve_http_reply._greetings,
        kserve_grpc_plain._forms,
        kserve_grpc._greetings,
        kserve_grpc._openings,
    ):
        memo.clear()
