"""The generate extension: a flat JSON object to an InferenceRequest, an InferenceResponse to a flat JSON object.

    {"text": "a", "n": 3, "parameters": {"top_k": 1}, "id": "q"}     members are inputs by name, all else is a parameter
    {"id": "q", "model_name": "m", "model_version": "1", "text": "b"}              members in the order of their bytes

Shapes are not written: an input's follows from its dims in the configuration and the number of its elements, an
output's is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .datatype import BY_NUMBER
from .fault import Fault, InvalidArgument, MalformedRequest
from .inference import InferenceRequest
from .json_pairs import Pairs
from .json_tensor import encode_json_data
from .json_text import as_string, members, read_json, read_pairs
from .kserve_http_reply import encode_data, quote, write_parameter
from .tensor import Tensor
from .text import encodable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .inference import InferenceResponse, Parameter
    from .tensor import Buffer
    from .wire.generated.inference import ModelConfig, ModelInput

_NESTED = "parameters"
_INT64_MAX = 2**63 - 1


def read_generate(
    body: Buffer, config: ModelConfig, model_name: str, model_version: int, json_byte_size_max: int
) -> InferenceRequest:
    """The request that `body` means for a model of that configuration. Raises MalformedRequest, InvalidArgument.

    Members are read in their order; the first fault is the one told. Of a member that is repeated the first counts, if
    it is no input: those must not be.
    """
    if len(body) > json_byte_size_max:
        raise InvalidArgument(
            f"request JSON size of {len(body)} bytes exceeds the maximum allowed input size of "
            f"{json_byte_size_max} bytes. Use --http-max-input-size to increase the limit."
        )
    value = read_json(body)
    document = members(value)
    items: Iterable[tuple[str, Any]] = document.items()
    pairs = read_pairs(body, value)
    if pairs is not None:
        document, items = pairs.first(), pairs.as_first()
    request = InferenceRequest(model_name, {}, model_version=model_version)
    if "id" in document:
        request.id = as_string(document["id"], "Unable to parse 'id': ")
    reader = _Reader(request, config, json_byte_size_max)
    for name, value in items:
        if name != _NESTED:
            reader.read(name, value)
            continue
        if name in reader.inputs:
            raise InvalidArgument(f"Keyword '{_NESTED}' for nested schema also given as input tensor name")
        if type(value) is Pairs:
            nested = value.as_first()
        elif type(value) is dict:
            nested = list(value.items())
        else:
            raise MalformedRequest(
                f"Expected JSON object for keyword: '{_NESTED}': attempt to access JSON non-object as object"
            )
        try:
            for nested_name, nested_value in nested:
                reader.read(nested_name, nested_value)
        except Fault as fault:
            raise type(fault)(f"Converting keyword: '{_NESTED}': {fault.message}") from fault
    request.parameters = reader.parameters or None
    return request


def write_generate(response: InferenceResponse) -> bytes:
    """The JSON object of one response. Raises InvalidArgument for outputs that JSON cannot carry, Internal for one
    whose bytes do not fit its shape."""
    fields: dict[bytes, bytes] = {
        b"model_name": quote(response.model_name),
        b"model_version": quote(response.model_version),
    }
    if response.id:
        fields[b"id"] = quote(response.id)
    for name, value in (response.parameters or {}).items():
        fields[name.encode()] = write_parameter(value)
    for tensor in response.outputs:
        data = encode_data(tensor)
        fields[tensor.name.encode()] = data if _element_count(tensor.shape) == 1 else b"[%b]" % data
    return b"{%b}" % b",".join([b"%b:%b" % (quote(name.decode()), fields[name]) for name in sorted(fields)])


class _Reader:
    """Fills a request member by member."""

    def __init__(self, request: InferenceRequest, config: ModelConfig, json_byte_size_max: int) -> None:
        self.inputs = {tensor.name: tensor for tensor in config.input}
        self.parameters: dict[str, Parameter] = {}
        self._request = request
        self._batched = config.max_batch_size > 0
        self._json_byte_size_max = json_byte_size_max

    def read(self, name: str, value: Any) -> None:
        described = self.inputs.get(name)
        if described is not None:
            self._read_input(described, value)
        elif type(value) is int and not -_INT64_MAX - 1 <= value <= _INT64_MAX:
            self.parameters[name] = float(value)
        elif type(value) is str:
            self.parameters[name] = encodable(value)  # one named `data` may hold stray bytes
        elif type(value) in (int, float, bool):
            self.parameters[name] = value
        else:
            raise InvalidArgument(
                f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
            )

    def _read_input(self, described: ModelInput, value: Any) -> None:
        name = described.name
        if name in self._request.inputs:
            raise InvalidArgument(f"{self._request.log_prefix()}input '{name}' already exists in request")
        datatype = BY_NUMBER[int(described.data_type)].name
        elements = value if type(value) is list else [value]
        shape = _shape([-1, *described.dims] if self._batched else list(described.dims), len(elements))
        if shape is None:
            raise InvalidArgument(f"The schema can not convert input '{name}' to tensor with proper shape")
        memory = encode_json_data(name, datatype, len(elements), elements, self._json_byte_size_max)
        self._request.inputs[name] = Tensor(name, datatype, shape, memory)


def _shape(dims: list[int], count: int) -> tuple[int, ...] | None:
    """`dims` for `count` elements: the last variable dimension takes what the fixed ones leave, the others are 1. None
    where no such shape exists."""
    for size in dims:
        if size > 0:
            count, rest = divmod(count, size)
            if rest:
                return None
    shape = []
    for size in reversed(dims):
        if size > 0:
            shape.append(size)
        else:
            shape.append(count)
            count = 1
    return tuple(reversed(shape)) if count == 1 else None


def _element_count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= int(size)
    return count
