"""Calls of add/sub over gRPC that differ in their tensors only, for the fake engine of the gRPC tests; and a look at
who takes the short ways that such requests have."""

import numpy as np
from despina.frontends.grpc.request.usual import UsualCalls
from despina.frontends.http.usual import UsualInfer
from despina.schema import kserve_grpc, kserve_grpc_familiar, kserve_http, kserve_http_reply
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
    """The model's answers say that they are alike, as the cheapest backends' do."""
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


def watched_ways(monkeypatch):
    """A list that grows by UsualInfer or UsualCalls with each request that is taken so."""
    ways = []

    def watch(way, name):
        take = getattr(way, name)

        def watched(self, *arguments):
            verdict = take(self, *arguments)
            if verdict:
                ways.append(way)
            return verdict

        monkeypatch.setattr(way, name, watched)

    watch(UsualInfer, "submit")
    watch(UsualCalls, "take")
    return ways


def forget_texts():
    """Empties what the codecs remember of earlier texts, so that the next request is read from its first byte."""
    for memo in (
        kserve_http._remembered,
        kserve_http_reply._openings,
        kserve_http_reply._greetings,
        kserve_grpc_familiar._familiar,
        kserve_grpc_familiar._with_parameters,
        kserve_grpc._input_memo,
        kserve_grpc._output_memo,
        kserve_grpc._parameter_memo,
        kserve_grpc._unusual_memo,
        kserve_grpc._response_memo,
        kserve_grpc._tensor_memo,
    ):
        memo.clear()
