"""An InferenceResponse to the body of an HTTP answer: JSON head, then the binary outputs, in order.

    {"id", "model_name", "model_version", "parameters", "outputs": [{"name", "datatype", "shape", then one of
        "data": [flat]    or    "parameters": {"binary_data_size": n}    or neither, for an output in shared memory}]}

Text is built by joining, not from dictionaries; what repeats from answer to answer is remembered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import orjson

from .classification import classify
from .fault import Fault, Internal, InvalidArgument
from .text import encodable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .infer_head import ReplyFormat
    from .inference import InferenceResponse, Parameter
    from .tensor import Buffer, Tensor

_Key = TypeVar("_Key")

_REMEMBERED_MAX = 1024
_REMEMBERED_BYTES_MAX = 512
"""Of one text. Names and shapes may be what a client has sent."""
_NO_LABELS: Mapping[str, Sequence[str]] = {}

_TO_ESCAPE = re.compile(rb'[\x00-\x1f"\\]')
_ESCAPES = {bytes([code]): b"\\u%04X" % code for code in range(32)} | {
    b"\b": b"\\b", b"\t": b"\\t", b"\n": b"\\n", b"\f": b"\\f", b"\r": b"\\r", b'"': b'\\"', b"\\": b"\\\\",
}  # fmt: skip

_openings: dict[tuple[str, str, tuple[int, ...]], bytes] = {}
"""By name, datatype and shape: an output's text up to where its data or parameters begin."""
_greetings: dict[tuple[str, str], bytes] = {}
"""By model name and version: those two members."""


def encode_infer(
    response: InferenceResponse,
    reply: ReplyFormat,
    labels: Mapping[str, Sequence[str]] = _NO_LABELS,
    max_batch_size: int = 0,
) -> tuple[bytes, list[Buffer], bool]:
    """The JSON head, the binary outputs (views, not copies), and whether there is any binary byte at all.

    Only in that last case does the answer carry `Inference-Header-Content-Length` and `application/octet-stream`.
    `labels`, by output, and `max_batch_size`, the model's, serve classification. Raises InvalidArgument for an output
    that cannot be ranked or has no form in JSON, Internal for one whose bytes do not fit its shape.
    """
    familiar = reply.familiar
    if type(familiar) is _Familiar and not response.parameters:
        if familiar.template is not None and familiar.template is response.template:
            known: list[Buffer] | None = list(response.wires)
        else:
            known = familiar.buffers(response)
        if known is not None:
            rest = familiar.rest
            return (b'{"id":%b,%b' % (quote(response.id), rest) if response.id else b"{%b" % rest), known, True
    names = (response.model_name, response.model_version)
    greeting = _greetings.get(names)
    if greeting is None:
        greeting = b'"model_name":%b,"model_version":%b' % (quote(names[0]), quote(names[1]))
        _remember(_greetings, names, greeting)
    parts = [b"{", greeting]
    if response.id:
        parts = [b'{"id":', quote(response.id), b",", greeting]
    if response.parameters:
        parts.append(_parameters(response.parameters))

    buffers = []
    has_bytes = False
    separator = b',"outputs":['
    for tensor in response.outputs:
        name = tensor.name
        if reply.classification and name in reply.classification:
            tensor = classify(tensor, reply.classification[name], max_batch_size, labels.get(name, ()))
        shape = tensor.shape
        key = (name, tensor.datatype, shape if type(shape) is tuple else tuple(shape))
        opening = _openings.get(key)
        if opening is None:
            opening = _opening(*key)
            _remember(_openings, key, opening)
        if name in reply.shared:
            parts.append(b"%b%b}" % (separator, opening[:-1]))
        elif reply.binary.get(name, reply.binary_default):
            memory = tensor.memory()
            size = len(memory)
            parts.append(b'%b%b"parameters":{"binary_data_size":%d}}' % (separator, opening, size))
            if size:
                has_bytes = True
                buffers.append(memory)
        else:
            parts += (separator, opening, b'"data":[', encode_data(tensor), b"]}")
        separator = b","
    parts.append(b"]}" if response.outputs else b',"outputs":[]}')
    head = b"".join(parts)
    if len(buffers) == len(response.outputs) and has_bytes and not response.parameters and not reply.classification:
        reply.familiar = _Familiar(response, buffers, head[head.index(greeting) :])
    return head, buffers, has_bytes


class _Familiar:
    """The last answer in a format, all of it binary. Most answers have the same text but for the id."""

    __slots__ = ("_names", "_outputs", "rest", "template")

    def __init__(self, response: InferenceResponse, buffers: list[Buffer], rest: bytes) -> None:
        self._names = (response.model_name, response.model_version)
        self._outputs = [
            (tensor.name, tensor.datatype, tuple(tensor.shape), len(buffer))
            for tensor, buffer in zip(response.outputs, buffers, strict=True)
        ]
        self.template = response.template
        self.rest = rest
        """The text after the id."""

    def buffers(self, response: InferenceResponse) -> list[Buffer] | None:
        """The outputs of an answer that has this text; None for one that has another."""
        outputs = response.outputs
        if (response.model_name, response.model_version) != self._names or len(outputs) != len(self._outputs):
            return None
        buffers: list[Buffer] = []
        for tensor, (name, datatype, shape, size) in zip(outputs, self._outputs, strict=True):
            if tensor.shape != shape or tensor.name != name or tensor.datatype != datatype:
                return None
            memory = tensor.wire
            if memory is None:
                memory = tensor.memory()
            if len(memory) != size:
                return None
            buffers.append(memory)
        return buffers


def encode_error(message: str) -> bytes:
    """The whole body of an error answer."""
    return b'{"error":%b}' % quote(message)


def encode_data(tensor: Tensor) -> bytes:
    """The elements as JSON, flat, without the brackets around them.

    FP32 reads as the double that it is, numbers in the reference server's notation, BYTES as strings of whatever bytes
    they are. Raises InvalidArgument for FP16 and BF16, Internal when the bytes do not fit the shape.
    """
    if tensor.datatype in ("FP16", "BF16"):
        raise InvalidArgument(
            f"sending {tensor.datatype} data via JSON is not supported. Please use the binary data format for output"
        )
    try:
        array = tensor.numpy()
    except (Fault, ValueError):
        raise Internal(
            f"Failed to write 'data' field: output tensor shape does not match size of output for '{tensor.name}'"
        ) from None
    if array.size == 0:
        return b""
    if tensor.datatype == "BYTES":
        return _strings([item if type(item) is bytes else str(item).encode() for item in array.ravel()])
    flat = np.ascontiguousarray(array).reshape(-1)
    if tensor.datatype == "BOOL":
        # Any byte but 0 is true, also where somebody's bytes were taken for booleans.
        flat = flat.view(np.uint8) != 0
    elif flat.dtype.kind == "f":
        return _numbers(flat.astype(np.float64, copy=False))
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def number_text(value: float) -> str:
    """A double in the fewest digits that say it: plain from 1e-6 up to 1e21, with an exponent beyond, always with a
    point or an exponent, `NaN`, `Infinity`."""
    if value != value:
        return "NaN"
    if value in (np.inf, -np.inf):
        return "Infinity" if value > 0 else "-Infinity"
    text = repr(float(value))
    if "e" not in text:
        return text
    mantissa, exponent_text = text.split("e")
    exponent = int(exponent_text)
    sign = "-" if value < 0 else ""
    digits = mantissa.lstrip("-").replace(".", "")
    if 0 <= exponent < 21:
        return f"{sign}{digits.ljust(exponent + 1, '0')}.0"
    if -6 <= exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    return f"{mantissa}e{exponent}"


def _numbers(flat: np.ndarray) -> bytes:
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    magnitude = np.abs(flat)
    # The encoder writes these in another notation, or as null.
    differs = ~(magnitude < 1e16) | ((magnitude < 1e-5) & (magnitude >= 1e-6))
    if not differs.any():
        return text
    items = text.split(b",")
    for place in np.flatnonzero(differs):
        items[place] = number_text(float(flat[place])).encode()
    return b",".join(items)


def _strings(items: list[bytes]) -> bytes:
    if _TO_ESCAPE.search(b"".join(items)) is not None:
        items = [_escape(item) for item in items]
    return b'"%b"' % b'","'.join(items)


def _escape(text: bytes) -> bytes:
    return _TO_ESCAPE.sub(lambda found: _ESCAPES[found[0]], text)


def quote(text: str) -> bytes:
    """A JSON string."""
    data = encodable(text).encode()
    return b'"%b"' % (_escape(data) if _TO_ESCAPE.search(data) is not None else data)


def _opening(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    sizes = ",".join([str(int(size)) for size in shape]).encode()
    return b'{"name":%b,"datatype":%b,"shape":[%b],' % (quote(name), quote(datatype), sizes)


def _parameters(parameters: Mapping[str, Parameter]) -> bytes:
    return b',"parameters":{%b}' % b",".join(
        [b"%b:%b" % (quote(name), write_parameter(value)) for name, value in parameters.items()]
    )


def write_parameter(value: Parameter) -> bytes:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return (number_text(value) if isinstance(value, float) else str(value)).encode()


def _remember(memo: dict[_Key, bytes], key: _Key, text: bytes) -> None:
    if len(text) > _REMEMBERED_BYTES_MAX:
        return
    if len(memo) >= _REMEMBERED_MAX:
        del memo[next(iter(memo))]
    memo[key] = text
