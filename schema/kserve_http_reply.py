"""An InferenceResponse to the body of an HTTP answer: JSON head, then the binary outputs, in order.

    {"id", "model_name", "model_version", "parameters", "outputs": [{"name", "datatype", "shape", then one of
        "data": [flat]    or    "parameters": {"binary_data_size": n}    or neither, for an output in shared memory}]}

Text is built by joining, not from dictionaries; what repeats from answer to answer is remembered.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from .classification import classify
from .datatype import NUMBER_CODES
from .fault import Fault, Internal, InvalidArgument
from .inference import FixedParameters
from .memo import Written
from .text import encodable
from .texts import PAUSE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .infer_head import ReplyFormat
    from .inference import InferenceResponse, Parameter
    from .tensor import Buffer, Tensor

_NO_LABELS: Mapping[str, Sequence[str]] = {}

_TO_ESCAPE = re.compile(rb'[\x00-\x1f"\\]')
_ESCAPES = {bytes([code]): b"\\u%04X" % code for code in range(32)} | {
    b"\b": b"\\b", b"\t": b"\\t", b"\n": b"\\n", b"\f": b"\\f", b"\r": b"\\r", b'"': b'\\"', b"\\": b"\\\\",
}  # fmt: skip

_LONG_BYTES_MIN: Final = 128 * 1024
"""Of a tensor's elements, as they are in memory."""
_PIECE_ELEMENTS: Final = 8192
"""A millisecond's work at most."""


class LongText(Exception):
    """So many elements are to be written as text that others should not wait for it."""


def encode_infer(
    response: InferenceResponse,
    reply: ReplyFormat,
    labels: Mapping[str, Sequence[str]] = _NO_LABELS,
    max_batch_size: int = 0,
    *,
    at_once: bool = False,
) -> tuple[bytes, list[Buffer], bool]:
    """The JSON head, the binary outputs (views, not copies), and whether there is any binary byte at all.

    Only in that last case does the answer carry `Inference-Header-Content-Length` and `application/octet-stream`.
    `labels`, by output, and `max_batch_size`, the model's, serve classification. Raises InvalidArgument for an output
    that cannot be ranked or has no form in JSON, Internal for one whose bytes do not fit its shape; LongText, if it is
    to be done `at_once`, where it would hold others up: ask again in a worker thread.
    """
    form = reply.form
    parameters = response.parameters or None
    if form is not None and form.parameters is parameters:
        filled: tuple[bytes, list[Buffer], bool] | None = form.filled(response)
        if filled is not None:
            return filled
    greeting = _greetings[response.model_name, response.model_version]
    parts = [b"{", greeting]
    if response.id:
        parts = [b'{"id":', quote(response.id), b",", greeting]
    said = b"" if parameters is None else _parameters(parameters)
    if said:
        parts.append(said)

    buffers = []
    has_bytes = False
    separator = b',"outputs":['
    for tensor in response.outputs:
        name = tensor.name
        if reply.classification and name in reply.classification:
            tensor = classify(tensor, reply.classification[name], max_batch_size, labels.get(name, ()))
        shape = tensor.shape
        opening = _openings[name, tensor.datatype, shape if type(shape) is tuple else tuple(shape)]
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
            if at_once and len(tensor.memory()) > _LONG_BYTES_MIN:
                raise LongText
            parts += (separator, opening, b'"data":[', *_data_pieces(tensor, pauses=not at_once), b"]}")
        separator = b","
    parts.append(b"]}" if response.outputs else b',"outputs":[]}')
    head = b"".join(parts)
    is_common = parameters is None or type(parameters) is FixedParameters
    if is_common and response.outputs and not (reply.classification or reply.shared):
        reply.form = _form_of(response, reply, greeting + said)
    return head, buffers, has_bytes


class _Form:
    """What answers in one format have in common whose outputs have the same names, datatypes, shapes and sizes, and
    that have the same parameters: most of their text."""

    __slots__ = ("_has_bytes", "_names", "_outputs", "_pieces", "_template", "parameters")

    def __init__(
        self,
        first: InferenceResponse,
        outputs: Sequence[tuple[str, str, tuple[int, ...], int, str]],
        pieces: Sequence[bytes],
        *,
        has_bytes: bool,
    ) -> None:
        """Of answers like `first`."""
        self.parameters = first.parameters or None
        """None, or FixedParameters."""
        self._template = first.template
        self._names = (first.model_name, first.model_version)
        self._outputs = outputs
        """Name, datatype, shape, size in bytes; and of those that are numbers in the text the type code."""
        self._pieces = pieces
        """The text after the id: one piece more than outputs are in it."""
        self._has_bytes = has_bytes

    def filled(self, response: InferenceResponse) -> tuple[bytes, list[Buffer], bool] | None:
        """The answer; None for one that has another form."""
        if self._template is not None and self._template is response.template:
            wires: list[Buffer] | None = list(response.wires)
        else:
            wires = self._wires(response)
        if wires is None or len(wires) != len(self._outputs):
            return None
        pieces = self._pieces
        if len(pieces) == 1:
            rest = pieces[0]
        else:
            parts = [pieces[0]]
            rests = iter(pieces)
            next(rests)
            buffers = []
            for index, wire in enumerate(wires):
                code = self._outputs[index][4]
                if code:
                    # As the numbers are in Python; exponents and `null` are what the encoder writes otherwise.
                    text = orjson.dumps(memoryview(wire).cast(code).tolist())  # type: ignore[call-overload]
                    if code in "fd" and (b"e" in text or b"n" in text):
                        return None
                    parts += (text, next(rests))
                else:
                    buffers.append(wire)
            rest = b"".join(parts)
            wires = buffers
        return (b'{"id":%b,%b' % (quote(response.id), rest) if response.id else b"{%b" % rest), wires, self._has_bytes

    def _wires(self, response: InferenceResponse) -> list[Buffer] | None:
        outputs = response.outputs
        if (response.model_name, response.model_version) != self._names or len(outputs) != len(self._outputs):
            return None
        wires: list[Buffer] = []
        for index, (name, datatype, shape, size, _) in enumerate(self._outputs):
            tensor = outputs[index]
            if tensor.shape != shape or tensor.name != name or tensor.datatype != datatype:
                return None
            memory = tensor.wire
            if memory is None:
                memory = tensor.memory()
            if len(memory) != size:
                return None
            wires.append(memory)
        return wires


def _form_of(response: InferenceResponse, reply: ReplyFormat, greeting: bytes) -> _Form | None:
    """Of answers like this one, just encoded; None where their text has something else that varies."""
    pieces = [greeting + b',"outputs":[']
    outputs = []
    has_bytes = False
    for tensor in response.outputs:
        shape = tuple(tensor.shape)
        size = len(tensor.memory())
        if not size:
            return None
        pieces[-1] += _openings[tensor.name, tensor.datatype, shape]
        code = ""
        if reply.binary.get(tensor.name, reply.binary_default):
            pieces[-1] += b'"parameters":{"binary_data_size":%d}},' % size
            has_bytes = True
        elif tensor.datatype in NUMBER_CODES and size <= _LONG_BYTES_MIN:
            code = NUMBER_CODES[tensor.datatype]
            pieces[-1] += b'"data":'
            pieces.append(b"},")
        else:
            return None
        outputs.append((tensor.name, tensor.datatype, shape, size, code))
    pieces[-1] = pieces[-1][:-1] + b"]}"
    return _Form(response, outputs, pieces, has_bytes=has_bytes)


def encode_error(message: str) -> bytes:
    """The whole body of an error answer."""
    return b'{"error":%b}' % quote(message)


def encode_data(tensor: Tensor) -> bytes:
    """The elements as JSON, flat, without the brackets around them. Raises as `_data_pieces`."""
    return b"".join(_data_pieces(tensor, pauses=False))


def _data_pieces(tensor: Tensor, *, pauses: bool) -> list[bytes]:
    """The same in pieces; where it `pauses`, in a worker thread, others get the interpreter between them.

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
        return []
    if tensor.datatype == "BYTES":
        return [_strings([item if type(item) is bytes else str(item).encode() for item in array.ravel()])]
    flat = np.ascontiguousarray(array).reshape(-1)
    if tensor.datatype == "BOOL":
        # Any byte but 0 is true, also where somebody's bytes were taken for booleans.
        flat = flat.view(np.uint8) != 0
    elif flat.dtype.kind == "f":
        flat = flat.astype(np.float64, copy=False)
    write = _numbers if flat.dtype.kind == "f" else _integers
    if flat.size <= _PIECE_ELEMENTS:
        return [write(flat)]
    pieces: list[bytes] = []
    for at in range(0, flat.size, _PIECE_ELEMENTS):
        pieces += (write(flat[at : at + _PIECE_ELEMENTS]), b",")
        if pauses:
            time.sleep(PAUSE_S)
    pieces.pop()
    return pieces


def _integers(flat: np.ndarray) -> bytes:
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
    if text.isprintable() and '"' not in text and "\\" not in text:  # as ids mostly are
        return b'"%b"' % text.encode()
    data = encodable(text).encode()
    return b'"%b"' % (_escape(data) if _TO_ESCAPE.search(data) is not None else data)


def _greeting(names: tuple[str, str]) -> bytes:
    return b'"model_name":%b,"model_version":%b' % (quote(names[0]), quote(names[1]))


def _opening(described: tuple[str, str, tuple[int, ...]]) -> bytes:
    name, datatype, shape = described
    sizes = ",".join([str(int(size)) for size in shape]).encode()
    return b'{"name":%b,"datatype":%b,"shape":[%b],' % (quote(name), quote(datatype), sizes)


_greetings = Written(_greeting)
"""By model name and version: those two members."""
_openings = Written(_opening)
"""By name, datatype and shape: an output's text up to where its data or parameters begin."""


def _parameters(parameters: Mapping[str, Parameter]) -> bytes:
    fixed = parameters if type(parameters) is FixedParameters else None
    if fixed is not None and fixed.json is not None:
        return fixed.json
    text = b',"parameters":{%b}' % b",".join(
        [b"%b:%b" % (quote(name), write_parameter(value)) for name, value in parameters.items()]
    )
    if fixed is not None:
        fixed.json = text
    return text


def write_parameter(value: Parameter) -> bytes:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return (number_text(value) if isinstance(value, float) else str(value)).encode()
