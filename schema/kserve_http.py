"""The body of an HTTP inference request, JSON head and binary tail, to an InferenceRequest.

                  header_length bytes          the inputs with `binary_data_size`, in order, nothing left over
    body   = [ {"id", "parameters", "inputs", "outputs"} | INPUT0 | INPUT1 | ... ]      tensors are views of it
    body   = [ the only input's bytes ]                                                 with header_length 0

Members are read in the order id, parameters, inputs (each with its data), leftover bytes, outputs; the first fault
found is the one told. Clients repeat their heads byte for byte but for the id, so what a small head without JSON
tensors says is remembered, and reading it again costs a look-up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from .fault import Fault, InvalidArgument
from .infer_head import InferHead, ReplyFormat, input_too_short, read_head, surplus_bytes
from .inference import InferenceRequest
from .json_tensor import too_large
from .json_text import first_of, read_json
from .shared_memory import SharedUse
from .tensor import Tensor

if TYPE_CHECKING:
    from .shared_memory import Regions
    from .tensor import Buffer


@attrs.frozen
class DecodeLimits:
    json_byte_size_max: int = 64 * 2**20
    """Bytes of the JSON part, of one tensor sent as JSON, and of a raw request. Binary tensors are not limited."""


_DEFAULT_LIMITS = DecodeLimits()
_REMEMBERED_HEADS_MAX = 256
_REMEMBERED_HEAD_BYTES_MAX = 2048
_LEADING_ID = re.compile(rb'\{"id":"([ !#-\[\]-~]*)"')
"""An id that says itself: no escapes, no control characters, ASCII."""
_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_INT32_MAX = 2**31 - 1
_RAW_REPLY = ReplyFormat(binary_default=True)

_remembered: dict[bytes, InferHead] = {}
"""What small heads without JSON tensors said, by their text from after a leading id. Oldest first."""


def parse_header_length(text: str, body_size: int) -> int:
    """The value of `Inference-Header-Content-Length`. Raises InvalidArgument unless it is in 0..`body_size`.

    Both refer to the body after decompression.
    """
    if text.isascii() and text.isdigit() and len(text) < 10 and (length := int(text)) <= body_size:
        return length
    if _INTEGER.fullmatch(text) is None:
        raise InvalidArgument(f"Unable to parse Inference-Header-Content-Length, got: {text}")
    # More digits than this are out of range, and converting very many is slow.
    length = int(text) if len(text) < 100 else _INT32_MAX + 1
    if not -_INT32_MAX - 1 <= length <= _INT32_MAX:
        raise InvalidArgument(
            "Unable to parse Inference-Header-Content-Length, value is out of range "
            f"[ {-_INT32_MAX - 1}, {_INT32_MAX} ], got: {text}"
        )
    if not 0 <= length <= body_size:
        raise InvalidArgument(f"inference header size should be in range (0, {body_size}), got: {text}")
    return length


def decode_infer(
    body: Buffer,
    header_length: int | None,
    model_name: str,
    model_version: int,
    limits: DecodeLimits = _DEFAULT_LIMITS,
    regions: Regions | None = None,
) -> tuple[InferenceRequest, ReplyFormat]:
    """The request that `body` carries, and how to answer it. Binary inputs are views of `body`, which must stay as it
    is while the request lives; `regions` are where those in shared memory lie.

    `header_length` comes from `parse_header_length`; None says that the header was absent. Raises MalformedRequest,
    InvalidArgument or NotFound.
    """
    view = body if type(body) is memoryview else memoryview(body)
    size = len(view)
    if header_length is None:
        header_length = size
    if header_length == 0:
        return _raw_request(view, model_name, model_version, limits)
    if header_length > limits.json_byte_size_max:
        raise InvalidArgument(
            f"request JSON size of {header_length} bytes exceeds the maximum allowed input size of "
            f"{limits.json_byte_size_max} bytes. Use --http-max-input-size to increase the limit."
        )
    if header_length > _REMEMBERED_HEAD_BYTES_MAX:
        head, inputs, shared = _read(
            view[:header_length].tobytes(), view[header_length:], model_name, limits.json_byte_size_max, regions
        )
        return _request(head, head.id, inputs, model_name, model_version, shared), head.reply

    text = key = view[:header_length].tobytes()
    leading_id = _LEADING_ID.match(text)
    if leading_id is not None:
        key = text[leading_id.end() :]
    remembered = _remembered.get(key)
    if remembered is None:
        head, inputs, shared = _read(text, view[header_length:], model_name, limits.json_byte_size_max, regions)
        # Where another member may be an id too, spelt with an escape maybe, the leading one is not all there is to it.
        if not head.has_data and (leading_id is None or (text.count(b'"id"') == 1 and b"\\" not in text)):
            _remember(key, head)
        return _request(head, head.id, inputs, model_name, model_version, shared), head.reply

    inputs = {}
    at = header_length
    shared = None
    if remembered.shared_inputs or remembered.shared_outputs:
        shared = SharedUse(regions)
    for name, datatype, shape, byte_size in remembered.inputs:
        if shared is not None and (place := remembered.shared_inputs.get(name)) is not None:
            inputs[name] = shared.input(name, datatype, shape, place)
            continue
        end = at + byte_size
        if end > size:
            raise input_too_short(name, end - size, model_name)
        inputs[name] = Tensor(name, datatype, shape, view[at:end])
        at = end
    if at != size:
        raise surplus_bytes(model_name)
    if shared is not None:
        for name, place in remembered.shared_outputs:
            shared.output(name, place)
    request_id = remembered.id if leading_id is None else leading_id[1].decode()
    request = _request(remembered, request_id, inputs, model_name, model_version, shared)
    if shared is None:
        request.template = remembered.template
    return request, remembered.reply


def _read(
    text: bytes, tail: memoryview, model_name: str, json_byte_size_max: int, regions: Regions | None
) -> tuple[InferHead, dict[str, Tensor], SharedUse | None]:
    """As `read_head` reads the document that `text` spells, with the first of repeated members."""
    document = read_json(text)
    try:
        found = read_head(document, tail, model_name, json_byte_size_max, regions)
        if found[0].member_count == text.count(b":"):
            return found
    except Fault:
        first = first_of(text, document)
        if first is document:
            raise
    else:
        first = first_of(text, document)
        if first is document:
            return found
    return read_head(first, tail, model_name, json_byte_size_max, regions)


def _remember(key: bytes, head: InferHead) -> None:
    if len(_remembered) >= _REMEMBERED_HEADS_MAX:
        del _remembered[next(iter(_remembered))]
    _remembered[key] = head


def _request(
    head: InferHead,
    request_id: str,
    inputs: dict[str, Tensor],
    model_name: str,
    model_version: int,
    shared: SharedUse | None,
) -> InferenceRequest:
    return InferenceRequest(
        model_name,
        inputs,
        model_version=model_version,
        id=request_id,
        outputs=head.outputs,
        parameters=head.parameters and head.parameters.copy(),
        priority=head.priority,
        timeout_us=head.timeout_us,
        correlation_id=head.correlation_id,
        sequence_start=head.sequence_start,
        sequence_end=head.sequence_end,
        shared=shared,
    )


def _raw_request(
    view: memoryview, model_name: str, model_version: int, limits: DecodeLimits
) -> tuple[InferenceRequest, ReplyFormat]:
    if len(view) > limits.json_byte_size_max:
        raise too_large("Raw input", len(view), limits.json_byte_size_max)
    tensor = Tensor("", "UINT8", (len(view),), view)
    return InferenceRequest(model_name, {"": tensor}, model_version=model_version, raw=True), _RAW_REPLY
