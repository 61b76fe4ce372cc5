"""The body of an HTTP inference request, JSON head and binary tail, to an InferenceRequest.

                  header_length bytes          the inputs with `binary_data_size`, in order, nothing left over
    body   = [ {"id", "parameters", "inputs", "outputs"} | INPUT0 | INPUT1 | ... ]      tensors are views of it
    body   = [ the only input's bytes ]                                                 with header_length 0

Members are read in the order id, parameters, inputs (each with its data), leftover bytes, outputs; the first fault
found is the one told.

Clients repeat their heads but for the id, the parameters and the elements of tensors. These are cut out of the text;
what the rest of it, its frame, says is remembered by model and text, and only what was cut out is read again:

    {"id":"7","parameters":{"priority":1},"inputs":[{"name":"A",...,"data":[1,2]}]}    the whole head
     ~~~~~~~~ ~~~~~~~~~~~~~~~~~~~~~~~~~~~                           ~~~~~~~~~~~~       cut out, where they are simple
                                          "inputs":[{"name":"A",...,\0}]}              the frame

A frame is remembered when the head that it was cut from was read as a whole, without fault, and has no member twice or
unknown. So a head with that frame differs from it in what was cut out only, and that is simple enough to be read alone;
whatever else is the matter, the head is read as a whole, and the fault told is that reader's.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from .fault import Fault, InvalidArgument
from .infer_head import InferHead, ReplyFormat, read_head, read_parameters
from .inference import InferenceRequest
from .json_tensor import encode_json_text, too_large
from .json_text import MEMBER, first_of, read_json
from .large_json import LARGE_BYTES_MIN, lift
from .memo import Memo
from .shared_memory import SharedUse
from .tensor import COPY_BYTES_MAX, Tensor, bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .large_json import Lifted
    from .shared_memory import Regions
    from .tensor import Buffer


@attrs.frozen
class DecodeLimits:
    json_byte_size_max: int = 64 * 2**20
    """Bytes of the JSON part, of one tensor sent as JSON, and of a raw request. Binary tensors are not limited."""


_DEFAULT_LIMITS = DecodeLimits()
_BLANKS = rb"[ \t\r\n]*"


def _pattern(text: bytes) -> re.Pattern[bytes]:
    """With blanks at each underline."""
    return re.compile(text.replace(b"_", _BLANKS))


_OPENING = _pattern(rb'\{_(?:"id"_:_"([ !#-\[\]-~]*)"_,_)?(?:"parameters"_:_(\{[^{}\\]*\})_,_)?')
"""An id that says itself: no escapes, no control characters, ASCII. Parameters without anything within."""
_LAST = _pattern(rb'"parameters"_:_(\{[^{}\\]*\})_\}_\Z')
_DATA = _pattern(rb'"data"_:_(\[[-+.0-9eE, \t\r\n\[\]]*\]|\[[^\[\]{}\\]*\])')
"""Numbers, nested or not, or anything that is not nested. Behind an array there is an end or a name, so none goes too
far. A name with its colon that stands anywhere in JSON is a member's: within strings quotes are escaped."""
_CUT = b"\0"
"""Where elements were: no JSON has it."""
_frames: Memo[tuple[str, bytes], InferHead] = Memo(count_max=1024, bytes_max=256 * 1024, text_bytes_max=2048)
"""By model name and text."""
_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_INT32_MAX = 2**31 - 1
_RAW_REPLY = ReplyFormat(binary_default=True)


def parse_header_length(told: bytes, body_size: int) -> int:
    """The value of `Inference-Header-Content-Length`. Raises InvalidArgument unless it is in 0..`body_size`.

    Both refer to the body after decompression.
    """
    if told.isdigit() and len(told) < 10 and (length := int(told.decode())) <= body_size:
        return length
    text = told.decode("latin-1")
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
    size = len(body)
    # Slices of a small body are copies, and cost less than views.
    view = body if type(body) is memoryview or (size <= COPY_BYTES_MAX and type(body) is bytes) else memoryview(body)
    if header_length is None:
        header_length = size
    if header_length == 0:
        return _raw_request(view, model_name, model_version, limits)
    if header_length > limits.json_byte_size_max:
        raise InvalidArgument(
            f"request JSON size of {header_length} bytes exceeds the maximum allowed input size of "
            f"{limits.json_byte_size_max} bytes. Use --http-max-input-size to increase the limit."
        )
    if header_length > LARGE_BYTES_MIN:
        lifted = lift(memoryview(view)[:header_length])
        if lifted is not None:
            found = _read(lifted.text, view[header_length:], model_name, model_version, limits, regions, lifted)
            if found is not None:
                return found[0], found[2]
    text = bytes_of(view[:header_length])
    tail = view[header_length:]
    frame, request_id, parameters = text, None, None
    elements: Sequence[bytes] = ()
    known = _frames.get((model_name, text))
    if known is None:
        frame, request_id, parameters = _cut(text)
        known = _frames.get((model_name, frame))
        if known is None and b'"data"' in frame:
            pieces = _DATA.split(frame)
            frame, elements = _CUT.join(pieces[::2]), pieces[1::2]
            known = _frames.get((model_name, frame))
    if known is not None:
        request = InferenceRequest(model_name, {}, model_version=model_version)
        request.id = known.id if request_id is None else request_id.decode()
        known_reply = _filled(known, request, parameters, elements, tail, limits, regions)
        if known_reply is not None:
            return request, known_reply
    found = _read(text, tail, model_name, model_version, limits, regions)
    assert found is not None, "nothing was lifted"
    request, head, reply = found
    count = head.member_count - len(elements)
    if request_id is not None:
        count -= 1
        head.id = ""
    if parameters is not None:
        count -= 1 + len(head.parameters)
        head.parameters = None
        head.reply = head.reply_in(False)
    if head.data_count == len(elements) and (frame.count(b":") == count or len(MEMBER.findall(frame)) == count):
        head.settle()
        _frames.keep((model_name, frame), head, len(frame))
    return request, reply


def _cut(text: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """The frame, but for the elements in it; and, each only if it is simple, the id and the parameters."""
    opening = _OPENING.match(text)
    if opening is None:
        return text, None, None
    request_id, parameters = opening.groups()
    frame = b"{" + text[opening.end() :]  # what is cut out leaves JSON: else a text that is none would be known by it
    if parameters is None and frame.endswith(b"}}"):
        at = frame.rfind(b'"parameters"')
        last = _LAST.match(frame, at) if at > 0 else None
        rest = frame[:at].rstrip(b" \t\r\n")
        if last is not None and rest.endswith(b","):
            return rest[:-1] + b"}", request_id, last[1]
    return frame, request_id, parameters


def _filled(
    known: InferHead,
    request: InferenceRequest,
    parameters: bytes | None,
    elements: Sequence[bytes],
    tail: memoryview | bytes,
    limits: DecodeLimits,
    regions: Regions | None,
) -> ReplyFormat | None:
    """Fills `request` from a frame that is known, from what was cut out of the head and the bytes behind it; None where
    anything is wrong with those, or not simple."""
    if len(tail) != known.tail_size or len(elements) != known.data_count:
        return None
    request.outputs = known.outputs
    request.template = known.template
    inputs = request.inputs
    for name, datatype, shape, place in known.binary_inputs:
        inputs[name] = Tensor(name, datatype, shape, tail[place])
    if known.is_binary and parameters is None:
        return known.reply
    binary_default = False
    try:
        if parameters is not None:
            given = orjson.loads(parameters)
            if len(MEMBER.findall(parameters)) != len(given):
                return None
            binary_default = read_parameters(given, request)
        elif known.parameters is not None:
            binary_default = read_parameters(known.parameters, request)
    except (Fault, orjson.JSONDecodeError):
        return None
    if not known.is_binary and not _fill_others(known, request, elements, limits, regions):
        return None
    return known.reply_in(binary_default)


def _fill_others(
    known: InferHead,
    request: InferenceRequest,
    elements: Sequence[bytes],
    limits: DecodeLimits,
    regions: Regions | None,
) -> bool:
    """The inputs whose elements are in the head or in shared memory, and the order of all. False as `_filled`."""
    binary = request.inputs
    inputs: dict[str, Tensor] = {}
    request.inputs = inputs
    shared = None
    if known.shares:
        shared = request.shared = SharedUse(regions)
    data = iter(elements)
    for name, datatype, shape in known.inputs:
        if name in binary:
            inputs[name] = binary[name]
        elif shared is not None and (place := known.shared_inputs.get(name)) is not None:
            inputs[name] = shared.input(name, datatype, shape, place)
        else:
            count = math.prod(shape) if shape else 0
            wire = encode_json_text(name, datatype, count, next(data), limits.json_byte_size_max)
            if wire is None:
                return False
            inputs[name] = Tensor(name, datatype, shape, wire)
    if shared is not None:
        for name, place in known.shared_outputs:
            shared.output(name, place)
    return True


def _read(
    text: bytes,
    tail: memoryview | bytes,
    model_name: str,
    model_version: int,
    limits: DecodeLimits,
    regions: Regions | None,
    lifted: Lifted | None = None,
) -> tuple[InferenceRequest, InferHead, ReplyFormat] | None:
    """As `read_head` reads the document that `text` spells, with the first of repeated members; None where what was
    `lifted` from it was not the elements of its inputs, or is not well-formed."""

    def read(document: Any) -> tuple[InferenceRequest, InferHead, ReplyFormat]:
        request = InferenceRequest(model_name, {}, model_version=model_version)
        return request, *read_head(document, tail, request, limits.json_byte_size_max, regions)

    if lifted is not None:
        return _read_lifted(text, lifted, read)
    document = read_json(text)
    try:
        found = read(document)
        if found[1].member_count == text.count(b":"):
            return found
    except Fault:
        first = first_of(text, document)
        if first is document:
            raise
    else:
        first = first_of(text, document)
        if first is document:
            return found
    return read(first)


def _read_lifted(
    text: bytes, lifted: Lifted, read: Callable[[Any], tuple[InferenceRequest, InferHead, ReplyFormat]]
) -> tuple[InferenceRequest, InferHead, ReplyFormat] | None:
    """Heads as most are. None for all others, faults among them: who has the whole text tells those."""
    try:
        document = orjson.loads(text)
        if not lifted.restore(document):
            return None
        found = read(document)
    except (Fault, ValueError):
        return None
    return found if found[1].member_count == text.count(b":") else None


def _raw_request(
    view: memoryview | bytes, model_name: str, model_version: int, limits: DecodeLimits
) -> tuple[InferenceRequest, ReplyFormat]:
    if len(view) > limits.json_byte_size_max:
        raise too_large("Raw input", len(view), limits.json_byte_size_max)
    tensor = Tensor("", "UINT8", (len(view),), view)
    return InferenceRequest(model_name, {"": tensor}, model_version=model_version, raw=True), _RAW_REPLY
