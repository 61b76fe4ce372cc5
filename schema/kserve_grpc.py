"""The gRPC door's words for requests and responses: ModelInferRequest <-> InferenceRequest, InferenceResponse -> bytes.

    read_request(message, version)      every rule and every text; works on the decoded message
    write_response(response)            straight to bytes, buffers uncopied

Most requests are read without a message: see kserve_grpc_plain.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .fault import InvalidArgument
from .inference import LATEST, FixedParameters, InferenceRequest, InferenceResponse, ResponseTemplate
from .kserve_grpc_contents import typed_contents
from .kserve_grpc_parameters import apply_parameters, said_in, write_parameters, wrong_type
from .memo import Written
from .shared_memory import SharedMemoryRange, SharedUse
from .tensor import Tensor, size_of
from .text import encodable
from .wire import codec
from .wire.generated.inference import (
    InferParameter,
    ModelInferRequest,
    ModelInferRequestInferRequestedOutputTensor,
    ModelInferResponse,
    ModelInferResponseInferOutputTensor,
)
from .wire.varint import ONE_BYTE, varint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .inference import Parameter
    from .shared_memory import Regions
    from .tensor import Buffer

_SHARED_MEMORY: Final = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


def read_request(message: ModelInferRequest, version: int = LATEST, regions: Regions | None = None) -> InferenceRequest:
    """The request that `message` means, for the version that its version string was parsed to.

    Raises InvalidArgument in the protocol's words, and NotFound for shared memory that is not in `regions`. Tensors are
    views of the message's buffers, or lie in shared memory.
    """
    request = InferenceRequest(message.model_name, {}, model_version=version, id=message.id)
    if message.parameters:
        apply_parameters([(key, said_in(value)) for key, value in message.parameters.items()], request)
    model = message.model_name
    raw: Sequence[Buffer] = message.raw_input_contents
    taken = 0
    shared = SharedUse(regions)
    for entry in message.inputs:
        name = entry.name
        if entry.parameters and (place := _read_place(entry.parameters, name)) is not None:
            if entry.contents is not None:
                raise InvalidArgument(
                    "unexpected 'content' provided when using shared memory for input tensor "
                    f"'{name}' for model '{model}'"
                )
            _refuse_repeated(request, name)
            request.inputs[name] = shared.input(name, entry.datatype, tuple(entry.shape), place)
            continue
        if entry.contents is not None:
            if raw:
                raise InvalidArgument(
                    f"contents field must not be specified when using raw_input_contents for '{name}' "
                    f"for model '{model}'"
                )
            memory = typed_contents(entry, model)
        elif taken < len(raw):
            memory = raw[taken]
            taken += 1
        else:
            raise InvalidArgument(f"unable to find data for input tensor '{name}' for model '{model}' in request.")
        _refuse_repeated(request, name)
        request.inputs[name] = Tensor(name, entry.datatype, tuple(entry.shape), memory)
    if message.outputs:
        request.outputs = names = [_read_output(entry, shared) for entry in message.outputs]
        if len(set(names)) < len(names):
            repeated = next(name for index, name in enumerate(names) if names.index(name) < index)
            raise InvalidArgument(f"{request.log_prefix()}output '{repeated}' already exists in request")
    if shared.inputs or shared.outputs:
        request.shared = shared
    return request


def _refuse_repeated(request: InferenceRequest, name: str) -> None:
    if name in request.inputs:
        raise InvalidArgument(f"{request.log_prefix()}input '{name}' already exists in request")


def read_class_counts(message: ModelInferRequest) -> dict[str, int] | None:
    """How many classes to tell of each output that is to be ranked; None for none. For messages that `read_request`
    has taken. Of two entries with one name the first counts."""
    counts: dict[str, int] = {}
    for entry in message.outputs:
        if entry.parameters and (wanted := entry.parameters.get("classification")) is not None:
            counts.setdefault(entry.name, wanted.int64_param or 0)
    return counts or None


def _read_place(parameters: Mapping[str, InferParameter], tensor: str) -> SharedMemoryRange | None:
    """Where the tensor lies in shared memory, None if it does not. Raises InvalidArgument for half a description."""
    region, offset, byte_size = (parameters.get(key) for key in _SHARED_MEMORY)
    if region is not None and region.string_param is None:
        raise wrong_type(f"'shared_memory_region' parameter for tensor '{tensor}'", "string_param.")
    for key, value in (("shared_memory_offset", offset), ("shared_memory_byte_size", byte_size)):
        if value is None:
            continue
        if region is None:
            raise InvalidArgument(
                f"'{key}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor}'"
            )
        if value.int64_param is None:
            raise wrong_type(f"'{key}' parameter for tensor '{tensor}'", "int64_param.")
    if region is not None and byte_size is None:
        raise InvalidArgument(
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter "
            f"for tensor '{tensor}'"
        )
    if region is None:
        return None
    numbers = [0 if value is None else (value.int64_param or 0) % 2**64 for value in (offset, byte_size)]
    return SharedMemoryRange(region.string_param or "", *numbers)


def _read_output(entry: ModelInferRequestInferRequestedOutputTensor, shared: SharedUse) -> str:
    parameters = entry.parameters
    if parameters:
        place = _read_place(parameters, entry.name)
        classification = parameters.get("classification")
        if classification is not None:
            if classification.int64_param is None:
                raise wrong_type("'classification' parameter", "int64_param")
            if classification.int64_param <= 0:
                raise InvalidArgument("invalid value for 'classification' parameter, expected >= 0")
            if place is not None:
                raise InvalidArgument("output can't set both 'shared_memory_region' and 'classification'")
        if place is not None:
            shared.output(entry.name, place)
    return entry.name


# Responses.


def write_response(response: InferenceResponse) -> tuple[list[Buffer], int]:
    """A ModelInferResponse as buffers to be sent one after another, and their size in bytes. Contents are raw."""
    template = response.template
    if type(template) is not ResponseTemplate or response.parameters:
        return _write_parts(response)
    known = template.protobuf
    if known is None:
        template.protobuf = known = _cut(response)
    head, fixed, size = known
    parts: list[Buffer] = [head]
    if response.id:
        said = _write_id(response.id)
        parts.append(said)
        size += len(said)
    wires = response.wires
    if len(wires) != len(fixed):
        raise ValueError("a response without the bytes of all its outputs")
    for index, wire in enumerate(wires):
        parts.append(fixed[index])
        parts.append(wire)
    return parts, size


def _cut(response: InferenceResponse) -> tuple[bytes, list[bytes], int]:
    """What all responses with the same template share: what comes before an id, what before each of the contents, and
    the size of one without an id."""
    parts, _ = _write_parts(InferenceResponse(response.model_name, response.model_version, response.outputs))
    count = 2 * len(response.outputs)
    described = parts[1 : len(parts) - count]
    heads = [bytes(part) for part in parts[len(parts) - count :: 2]]
    if heads:
        heads[0] = b"".join((*described, heads[0]))
    return bytes(parts[0]), heads, size_of(parts)


def _write_id(id: str) -> bytes:
    try:
        text = id.encode()
    except UnicodeEncodeError:
        text = encodable(id).encode()
    return b"\x1a" + varint(len(text)) + text


def _write_parts(response: InferenceResponse) -> tuple[list[Buffer], int]:
    parts: list[Buffer] = [_greetings[response.model_name, response.model_version]]
    if response.id:
        parts.append(_write_id(response.id))
    if response.parameters:
        parts.append(_say_parameters(response.parameters))
    raw: list[Buffer] = []
    for tensor in response.outputs:
        shape = tensor.shape
        parts.append(_openings[tensor.name, tensor.datatype, shape if type(shape) is tuple else tuple(shape)])
        memory = tensor.memory()
        size = len(memory)
        raw.append(b"\x32" + (ONE_BYTE[size] if size < 128 else varint(size)))
        raw.append(memory)
    parts += raw
    return parts, size_of(parts)


def _say_parameters(parameters: dict[str, Parameter]) -> bytes:
    fixed = parameters if type(parameters) is FixedParameters else None
    if fixed is not None and fixed.protobuf is not None:
        return fixed.protobuf
    said = codec.encode_to_bytes(ModelInferResponse(parameters=write_parameters(parameters)))
    if fixed is not None:
        fixed.protobuf = said
    return said


def _greeting(names: tuple[str, str]) -> bytes:
    return codec.encode_to_bytes(ModelInferResponse(model_name=names[0], model_version=names[1]))


def _opening(described: tuple[str, str, tuple[int, ...]]) -> bytes:
    name, datatype, shape = described
    output = ModelInferResponseInferOutputTensor(name=name, datatype=datatype, shape=list(map(int, shape)))
    return codec.encode_to_bytes(ModelInferResponse(outputs=[output]))


_greetings: Final = Written(_greeting)
"""By model name and version: those two fields."""
_openings: Final = Written(_opening)
"""By name, datatype and shape: an output but for its contents."""
