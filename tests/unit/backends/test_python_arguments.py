"""What models pass to `pb_utils`: wrong kinds raise TypeError where they are passed, as in the reference's module."""

import logging

import numpy as np
import pytest
from despina.backends.python import triton_python_backend_utils as pb_utils
from despina.backends.python.request import ReceivedRequest

ONE = np.zeros(1, np.int32)
REQUEST = {"inputs": [], "requested_output_names": [], "model_name": "q"}


def request(**arguments):
    return pb_utils.InferenceRequest(**{**REQUEST, **arguments})


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: pb_utils.Tensor(None, ONE), "Tensor(): expected name to be a str, got <class 'NoneType'>"),
        (lambda: pb_utils.Tensor(3, ONE), "Tensor(): expected name"),
        (lambda: pb_utils.Tensor(b"\xff", ONE), "Tensor(): expected name to be a str, got bytes that are not UTF-8"),
        (lambda: pb_utils.Tensor("a", None), "Tensor 'a': expected a numpy array"),
        (lambda: pb_utils.Tensor("a", np.float32(3)), "Tensor 'a': expected a numpy array"),
        (lambda: pb_utils.Tensor.from_dlpack(None, ONE), "from_dlpack(): expected name"),
        (lambda: pb_utils.InferenceResponse(None), "InferenceResponse(): expected output_tensors to be a list"),
        (lambda: pb_utils.InferenceResponse("ab"), "InferenceResponse(): expected output_tensors to be a list"),
        (
            lambda: pb_utils.InferenceResponse({pb_utils.Tensor("a", ONE)}),
            "InferenceResponse(): expected output_tensors",
        ),
        (lambda: pb_utils.InferenceResponse([], "text"), "InferenceResponse(): expected error to be a TritonError"),
        (lambda: pb_utils.TritonError(None), "TritonError(): expected message to be a str, got <class 'NoneType'>"),
        (lambda: pb_utils.TritonError(3), "TritonError(): expected message"),
        (lambda: pb_utils.TritonError("x", None), "TritonError(): expected code"),
        (lambda: pb_utils.TritonError("x", 1), "TritonError(): expected code"),
        (lambda: pb_utils.Logger.log_info(None), "log_info(): expected message to be a str, got <class 'NoneType'>"),
        (lambda: pb_utils.Logger.log_warn(3), "log_warn(): expected message"),
        (lambda: pb_utils.Logger.log_error(None), "log_error(): expected message"),
        (lambda: pb_utils.Logger.log_verbose(None), "log_verbose(): expected message"),
        (lambda: pb_utils.Logger.log(None), "log(): expected message"),
        (lambda: pb_utils.Logger.log("x", None), "log(): expected level"),
        (lambda: pb_utils.Logger.log("x", 1), "log(): expected level"),
        (lambda: pb_utils.InferenceRequest(), "InferenceRequest(): expected model_name"),
        (lambda: request(request_id=None), "InferenceRequest(): expected request_id"),
        (lambda: request(correlation_id=None), "InferenceRequest(): expected correlation_id"),
        (lambda: request(correlation_id=-1), "InferenceRequest(): expected correlation_id to be an int from 0 to "),
        (lambda: request(correlation_id=2**64), "InferenceRequest(): expected correlation_id to be an int from 0 to "),
        (lambda: request(inputs=None), "InferenceRequest(): expected inputs to be a list"),
        (lambda: request(inputs=[3]), "InferenceRequest(): expected inputs to hold Tensors"),
        (lambda: request(requested_output_names=None), "InferenceRequest(): expected requested_output_names"),
        (lambda: request(requested_output_names="ab"), "InferenceRequest(): expected requested_output_names"),
        (lambda: request(requested_output_names=[None]), "InferenceRequest(): expected requested_output_names"),
        (lambda: request(model_name=None), "InferenceRequest(): expected model_name"),
        (lambda: request(model_version=None), "InferenceRequest(): expected model_version to be an int, got"),
        (lambda: request(model_version="1"), "InferenceRequest(): expected model_version to be an int, got"),
        (lambda: request(model_version=2**63), "InferenceRequest(): expected model_version to be an int from"),
        (lambda: request(flags=None), "InferenceRequest(): expected flags"),
        (lambda: request(flags=-1), "InferenceRequest(): expected flags"),
        (lambda: request(flags=2**32), "InferenceRequest(): expected flags"),
        (lambda: request(timeout=1.5), "InferenceRequest(): expected timeout"),
        (lambda: request().set_flags(None), "set_flags(): expected flags"),
        (lambda: pb_utils.InferenceTrace(3), "InferenceTrace(): expected context"),
        (lambda: pb_utils.PreferredMemory(None), "PreferredMemory(): expected preferred_memory_type"),
        (lambda: pb_utils.PreferredMemory(1), "PreferredMemory(): expected preferred_memory_type"),
        (
            lambda: pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, None),
            "PreferredMemory(): expected preferred_device_id",
        ),
        (lambda: pb_utils.load_model(None), "load_model(): expected model_name"),
        (lambda: pb_utils.load_model("x", 3), "load_model(): expected config"),
        (lambda: pb_utils.unload_model(None), "unload_model(): expected model_name"),
        (lambda: pb_utils.is_model_ready(None), "is_model_ready(): expected model_name"),
        (lambda: pb_utils.is_model_ready("x", 1), "is_model_ready(): expected model_version"),
    ],
)
def test_what_is_of_another_kind(call, told):
    """The function, the argument, what was expected and what was found."""
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    "call",
    [
        lambda sender: sender.send(3),
        lambda sender: sender.send(flags=None),
        lambda sender: sender.send("x", pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL),
    ],
)
def test_what_cannot_be_sent(call):
    """A sender looks at the kinds first; nothing of it is sent."""
    with pytest.raises(TypeError, match=r"^send\(\): expected "):
        call(pb_utils.InferenceResponseSender(ReceivedRequest(None, []), []))


def test_what_is_taken(caplog):
    """Bytes are a text in UTF-8, numpy's integers are integers, tuples lists; None is no error and no parameters."""
    assert pb_utils.Tensor(b"a", ONE).name() == "a"
    assert pb_utils.TritonError(b"x").message() == "x"
    assert pb_utils.InferenceResponse((pb_utils.Tensor("a", ONE),), None, None).output_tensors()[0].name() == "a"
    made = request(
        flags=np.uint8(1), timeout=np.int64(2**31), inputs=(), requested_output_names=("a",), request_id=b"i"
    )
    assert (made.flags(), made.timeout(), made.request_id()) == (1, 2**31, "i")
    assert request(correlation_id="name").correlation_id() == "name"
    with caplog.at_level(logging.INFO, "despina.model"):
        pb_utils.Logger.log_info(message=b"bytes")
    assert caplog.messages == ["bytes"]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"k": 2**63}, "Expect parameters values to fit 64 bits with a sign, found one of 64 bits for 'k'"),
        ({"k": -(2**70)}, "Expect parameters values to fit 64 bits with a sign, found one of 71 bits for 'k'"),
        ({"k": 10**5000}, "Expect parameters values to fit 64 bits with a sign"),
        ({"k": "a\udc80"}, "Expect parameters values to be text, found 'a\\udc80' for 'k', which UTF-8 does not have"),
        ({"\udc80": 1}, "Expect parameters keys to be text, found '\\udc80', which UTF-8 does not have"),
    ],
)
def test_parameters_that_no_client_could_read(parameters, told):
    """They are refused where the response is made, not by the client that gets it."""
    for make in (lambda: pb_utils.InferenceResponse([], parameters=parameters), lambda: request(parameters=parameters)):
        with pytest.raises(pb_utils.TritonModelException) as caught:
            make()
        assert str(caught.value).startswith(told)


def test_parameters_at_the_limits():
    """The widest integers, truth and any text pass."""
    parameters = {"low": -(2**63), "high": 2**63 - 1, "yes": True, "text": "é\U0001f600", "": ""}
    assert pb_utils.InferenceResponse([], parameters=parameters)._parameters == parameters


def test_texts_that_cannot_be_encoded(caplog):
    """What a model says of an error keeps all that can be said."""
    assert pb_utils.TritonError("a\udc80b").fault().message == "a\ufffdb"
    with caplog.at_level(logging.INFO, "despina.model"):
        pb_utils.Logger.log_error("a\udc80b")
    assert caplog.messages == ["a\ufffdb"]


def test_classes_that_models_derive_their_own_from():
    """What they add and override counts, also where the rest is compiled."""

    class Named(pb_utils.Tensor):
        def __init__(self, array):
            super().__init__("mine", array)
            self.note = "kept"

        def name(self):
            return super().name().upper()

    class Response(pb_utils.InferenceResponse):
        def output_tensors(self):
            return super().output_tensors()[:1]

    tensor = Named(ONE)
    response = Response([tensor, pb_utils.Tensor("b", ONE)])
    assert (tensor.name(), tensor.note) == ("MINE", "kept")
    assert response.output_tensors() == [tensor]
    assert pb_utils.get_output_tensor_by_name(response, "MINE") is tensor
    assert request(inputs=[tensor]).tensor("MINE") is tensor
