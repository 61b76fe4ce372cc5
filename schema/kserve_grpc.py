"""The gRPC door's words for requests and responses: ModelInferRequest <-> InferenceRequest, InferenceResponse -> bytes.

    read_request(message, version)      every rule and every text; works on the decoded message
    read_plain_request(data)            the common case straight from bytes, or None when anything is unusual
    write_response(response)            straight to bytes, buffers uncopied

`read_plain_request` never decides anything that `read_request` would decide otherwise: it gives up instead. Both keep
memos of tensor descriptions, which repeat from request to request; a memo maps bytes to what those bytes always mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fault import InvalidArgument
from .inference import LATEST, InferenceRequest, InferenceResponse, Parameter, ResponseTemplate
from .kserve_grpc_contents import typed_contents
from .kserve_grpc_familiar import read_familiar, remember
from .shared_memory import SharedMemoryRange, SharedUse
from .tensor import Tensor
from .text import encodable
from .wire import codec
from .wire.generated.inference import (
    InferParameter,
    ModelInferRequest,
    ModelInferRequestInferInputTensor,
    ModelInferRequestInferRequestedOutputTensor,
    ModelInferResponse,
    ModelInferResponseInferOutputTensor,
)
from .wire.varint import ONE_BYTE, read_varint, varint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .shared_memory import Regions
    from .tensor import Buffer

_RESERVED = (
    "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
    "'triton_' are allowed: triton_enable_empty_final_response"
)
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


def read_request(message: ModelInferRequest, version: int = LATEST, regions: Regions | None = None) -> InferenceRequest:
    """The request that `message` means, for the version that its version string was parsed to.

    Raises InvalidArgument in the protocol's words, and NotFound for shared memory that is not in `regions`. Tensors are
    views of the message's buffers, or lie in shared memory.
    """
    request = InferenceRequest(message.model_name, {}, model_version=version, id=message.id)
    if message.parameters:
        _read_parameters(message.parameters, request)
    model = message.model_name
    raw = message.raw_input_contents
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


def _wrong_type(what: str, expected: str) -> InvalidArgument:
    return InvalidArgument(f"invalid value type for {what}, expected {expected}")


def _read_parameters(parameters: Mapping[str, InferParameter], request: InferenceRequest) -> None:
    custom: dict[str, Parameter] = {}
    for key, value in parameters.items():
        what = f"'{key}' parameter"
        if key == "sequence_id":
            if value.int64_param is not None:
                request.correlation_id = value.int64_param & 0xFFFFFFFFFFFFFFFF
            elif value.string_param is not None:
                request.correlation_id = value.string_param
            else:
                raise _wrong_type(what, "int64_param or string_param.")
        elif key in ("sequence_start", "sequence_end"):
            if value.bool_param is None:
                raise _wrong_type(what, "bool_param.")
            if key == "sequence_start":
                request.sequence_start = value.bool_param
            else:
                request.sequence_end = value.bool_param
        elif key == "priority":
            if value.int64_param is not None:
                if value.int64_param < 0:
                    raise InvalidArgument("invalid value for 'priority', expected value >= 0.")
                request.priority = value.int64_param
            elif value.uint64_param is not None:
                request.priority = value.uint64_param
            else:
                raise _wrong_type(what, "int64_param or uint64_param.")
        elif key == "timeout":
            if value.int64_param is None:
                raise _wrong_type(what, "int64_param.")
            request.timeout_us = value.int64_param & 0xFFFFFFFFFFFFFFFF
        elif key == "triton_enable_empty_final_response":
            if value.bool_param is None:
                raise _wrong_type(what, "bool_param.")
        elif key.startswith("triton_"):
            raise InvalidArgument(_RESERVED)
        else:
            custom[key] = _custom_parameter(value, what)
    if custom:
        request.parameters = custom


def _custom_parameter(value: InferParameter, what: str) -> Parameter:
    if value.int64_param is not None:
        return value.int64_param
    if value.bool_param is not None:
        return value.bool_param
    if value.string_param is not None:
        return value.string_param
    if value.double_param is not None:
        return value.double_param
    raise InvalidArgument(f"invalid value type for {what}, expected int64_param, bool_param, or string_param.")


def _read_place(parameters: Mapping[str, InferParameter], tensor: str) -> SharedMemoryRange | None:
    """Where the tensor lies in shared memory, None if it does not. Raises InvalidArgument for half a description."""
    region, offset, byte_size = (parameters.get(key) for key in _SHARED_MEMORY)
    if region is not None and region.string_param is None:
        raise _wrong_type(f"'shared_memory_region' parameter for tensor '{tensor}'", "string_param.")
    for key, value in (("shared_memory_offset", offset), ("shared_memory_byte_size", byte_size)):
        if value is None:
            continue
        if region is None:
            raise InvalidArgument(
                f"'{key}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor}'"
            )
        if value.int64_param is None:
            raise _wrong_type(f"'{key}' parameter for tensor '{tensor}'", "int64_param.")
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
                raise _wrong_type("'classification' parameter", "int64_param")
            if classification.int64_param <= 0:
                raise InvalidArgument("invalid value for 'classification' parameter, expected >= 0")
            if place is not None:
                raise InvalidArgument("output can't set both 'shared_memory_region' and 'classification'")
        if place is not None:
            shared.output(entry.name, place)
    return entry.name


# The common case, straight from bytes.

_MEMO_ENTRIES_MAX = 1024
_MEMO_KEY_BYTES_MAX = 512
_PARAMETER_BYTES_MAX = 64
"""Ids of sequences are short; each caller has its own."""

_input_memo: dict[bytes, tuple[str, str, tuple[int, ...]]] = {}
_output_memo: dict[bytes, str] = {}
_parameter_memo: dict[bytes, tuple[str, InferParameter]] = {}
_unusual_memo: set[bytes] = set()
"""Descriptions of inputs that the short way does not read."""


def read_plain_request(data: bytes) -> InferenceRequest | None:
    """The request in `data`, or None when it must be decoded as a message: parameters that are refused or the door's,
    typed contents, a version that is not plain digits, fields out of order or unknown, a tensor without its bytes,
    malformed bytes."""
    familiar = read_familiar(data)
    if familiar is not None:
        return familiar
    places: list[tuple[int, int, int]] = []
    name = version = id = ""
    heads: list[tuple[str, str, tuple[int, ...]]] = []
    outputs: list[str] = []
    inputs: dict[str, Tensor] = {}
    parameters: dict[str, InferParameter] | None = None
    view = memoryview(data)
    count = 0
    i = 0
    end = len(data)
    try:
        while i < end:
            tag_at = i
            tag = data[i]
            size = data[i + 1]
            i += 2
            if size > 127:
                size, i = read_varint(data, i - 1)
            stop = i + size
            if stop > end:
                return None
            if tag == 0x3A:
                head = heads[count]
                count += 1
                places.append((tag_at, i, stop))
                inputs[head[0]] = Tensor(head[0], head[1], head[2], view[i:stop])
            elif tag == 0x2A:
                key = data[i:stop]
                heads.append(_input_memo.get(key) or _describe_input(key))
            elif tag == 0x32:
                key = data[i:stop]
                outputs.append(_output_memo.get(key) or _describe_output(key))
            elif tag == 0x0A:
                name = data[i:stop].decode()
            elif tag == 0x1A:
                id = data[i:stop].decode()
            elif tag == 0x12:
                version = data[i:stop].decode()
            elif tag == 0x22:
                parameters = parameters or {}
                named, value = _parameter(data[i:stop])
                parameters[named] = value
            else:
                return None
            i = stop
    except (IndexError, ValueError):
        # Also one raw entry too many: the protocol ignores it, so the message's way does.
        return None
    if count != len(heads) or len(inputs) != count:
        return None
    if len(outputs) > 1 and len(set(outputs)) < len(outputs):
        return None  # to be refused
    if len(version) > 18 or not (not version or (version.isascii() and version.isdigit())):
        return None
    request = InferenceRequest(name, inputs, model_version=int(version) if version else LATEST, id=id, outputs=outputs)
    if parameters is not None:
        try:
            _read_parameters(parameters, request)
        except InvalidArgument:
            return None  # refused in its turn: other things may be wrong, too
    remember(data, request, places)
    return request


def _parameter(entry: bytes) -> tuple[str, InferParameter]:
    known = _parameter_memo.get(entry)
    if known is None:
        ((name, value),) = codec.decode(ModelInferRequest, b"\x22" + varint(len(entry)) + entry).parameters.items()
        if name.startswith("triton_"):
            raise _NotPlain  # said to the door, not to the model
        known = name, value
        if len(entry) <= _PARAMETER_BYTES_MAX:
            if len(_parameter_memo) >= _MEMO_ENTRIES_MAX:
                _parameter_memo.clear()
            _parameter_memo[entry] = known
    return known


class _NotPlain(ValueError):
    """The description has a part that the short way does not read."""


def _describe_input(key: bytes) -> tuple[str, str, tuple[int, ...]]:
    if key in _unusual_memo:
        raise _NotPlain
    message = codec.decode(ModelInferRequestInferInputTensor, key)
    if message.parameters or message.contents is not None:
        if len(key) <= _MEMO_KEY_BYTES_MAX:
            if len(_unusual_memo) >= _MEMO_ENTRIES_MAX:
                _unusual_memo.clear()
            _unusual_memo.add(key)
        raise _NotPlain
    head = (message.name, message.datatype, tuple(message.shape))
    if len(key) <= _MEMO_KEY_BYTES_MAX:
        if len(_input_memo) >= _MEMO_ENTRIES_MAX:
            _input_memo.clear()
        _input_memo[key] = head
    return head


def _describe_output(key: bytes) -> str:
    message = codec.decode(ModelInferRequestInferRequestedOutputTensor, key)
    if message.parameters:
        raise _NotPlain
    if len(key) <= _MEMO_KEY_BYTES_MAX:
        if len(_output_memo) >= _MEMO_ENTRIES_MAX:
            _output_memo.clear()
        _output_memo[key] = message.name
    return message.name


# Responses.

_response_memo: dict[tuple[str, str], bytes] = {}
_tensor_memo: dict[tuple[str, str, tuple[int, ...]], bytes] = {}


def write_response(response: InferenceResponse) -> tuple[list[Buffer], int]:
    """A ModelInferResponse as buffers to be sent one after another, and their size in bytes. Contents are raw."""
    template = response.template
    if type(template) is ResponseTemplate and not response.id and not response.parameters:
        if template.protobuf is not None:
            return _write_familiar(response, template.protobuf)
        buffers, size = _write_parts(response)
        count = 2 * len(response.outputs)
        # Fixed: everything before the first contents, then each tag and length.
        fixed = [b"".join(buffers[: len(buffers) - count + 1]), *buffers[len(buffers) - count + 2 :: 2]]
        template.protobuf = (fixed, size)
        return buffers, size
    return _write_parts(response)


def _write_familiar(response: InferenceResponse, protobuf: tuple[list[Buffer], int]) -> tuple[list[Buffer], int]:
    fixed, size = protobuf
    buffers: list[Buffer] = []
    for pair in zip(fixed, response.wires, strict=True):
        buffers += pair
    return buffers, size


def _write_parts(response: InferenceResponse) -> tuple[list[Buffer], int]:
    key = (response.model_name, response.model_version)
    head = _response_memo.get(key)
    if head is None:
        head = codec.encode_to_bytes(ModelInferResponse(model_name=key[0], model_version=key[1]))
        if len(head) <= _MEMO_KEY_BYTES_MAX:
            if len(_response_memo) >= _MEMO_ENTRIES_MAX:
                _response_memo.clear()
            _response_memo[key] = head
    parts: list[Buffer] = [head]
    if response.id:
        try:
            id = response.id.encode()
        except UnicodeEncodeError:
            id = encodable(response.id).encode()
        parts.append(b"\x1a" + varint(len(id)) + id)
    if response.parameters:
        message = ModelInferResponse(parameters=write_parameters(response.parameters))
        parts.append(codec.encode_to_bytes(message))
    raw: list[Buffer] = []
    for tensor in response.outputs:
        shape = tensor.shape
        tensor_key = (tensor.name, tensor.datatype, shape if type(shape) is tuple else tuple(shape))
        described = _tensor_memo.get(tensor_key)
        if described is None:
            described = _describe_tensor(*tensor_key)
        parts.append(described)
        memory = tensor.memory()
        size = len(memory)
        raw.append(b"\x32" + (ONE_BYTE[size] if size < 128 else varint(size)))
        raw.append(memory)
    parts += raw
    return parts, sum(map(len, parts))


def _describe_tensor(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    output = ModelInferResponseInferOutputTensor(name=name, datatype=datatype, shape=[int(size) for size in shape])
    described = codec.encode_to_bytes(ModelInferResponse(outputs=[output]))
    if len(described) <= _MEMO_KEY_BYTES_MAX:
        if len(_tensor_memo) >= _MEMO_ENTRIES_MAX:
            _tensor_memo.clear()
        _tensor_memo[name, datatype, shape] = described
    return described


def write_parameters(parameters: Mapping[str, Parameter]) -> dict[str, InferParameter]:
    return {key: _write_parameter(value) for key, value in parameters.items()}


def _write_parameter(value: Parameter) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int):
        return InferParameter(int64_param=value) if value < 2**63 else InferParameter(uint64_param=value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    return InferParameter(string_param=value)
