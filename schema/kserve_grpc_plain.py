"""A ModelInferRequest straight from its bytes, for the way that nearly all are written: one pass over its fields.

    model_name | model_version | id | parameters | inputs, outputs | raw contents
      read anew                                    one stretch       copies or views

The stretch that describes inputs and outputs is decoded once and remembered, as a form: clients vary ids, parameters
and tensors, and ask again and again for the same names, datatypes and shapes. Elements that came as lists stand in the
descriptions, and are taken out of them first. Nothing is decided here that the message's way (kserve_grpc.py) would
decide otherwise: whatever is not plain is left to it.
"""

from __future__ import annotations

from struct import Struct, error
from typing import TYPE_CHECKING, Final

from .fault import InvalidArgument
from .inference import LATEST, InferenceRequest, Template
from .kserve_grpc_contents import memory_in
from .kserve_grpc_parameters import BOOL, DOUBLE, INT64, STRING, UINT64, Said, apply_parameters
from .memo import Memo
from .tensor import COPY_BYTES_MAX, Tensor, bytes_of
from .texts import MANY_BYTES_MIN, counted
from .wire import codec
from .wire.generated.inference import ModelInferRequest
from .wire.varint import read_varint, varint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .tensor import Buffer

_VERSION_DIGITS_MAX: Final = 18
_TEXTS: Final = b"\x12\x05BYTES"
"""In the description of an input with BYTES."""
_CONTENTS_BYTES_MAX: Final = 32_768
"""Of an input with its elements that is read at once, in a millisecond or two."""
_RAW: Final = 0x3A
"""The tag of contents."""
_BEFORE_RAW: Final = frozenset((0x12, 0x1A, 0x22, 0x2A, 0x32))
"""Tags of what may be between a model's name and raw contents."""
_BEFORE_CONTENTS: Final = frozenset((0x0A, 0x12, 0x1A))
"""Tags of an input's name, datatype and shape."""
_DOUBLE: Final = Struct("<d").unpack_from


class Form:
    """What a stretch of inputs and outputs describes, and what requests of that form and size have in common."""

    __slots__ = ("_sizes", "_template", "has_texts", "inputs", "outputs")

    def __init__(self, inputs: list[tuple[str, str, tuple[int, ...]]], outputs: Sequence[str]) -> None:
        self.inputs = inputs
        """Name, datatype and shape of each."""
        self.has_texts = "BYTES" in [datatype for _, datatype, _ in inputs]
        self.outputs = outputs
        self._sizes: list[int] = []
        """Bytes of each input of those that `_template` is for."""
        self._template = Template()

    def template_for(self, sizes: list[int]) -> Template:
        """Shared by requests whose tensors have these sizes, for as long as no other sizes come between."""
        if sizes != self._sizes:
            self._sizes = sizes
            self._template = Template()
        return self._template


_UNKNOWN: Final = Form([], ())
_forms: Final[Memo[bytes | tuple[bytes, ...], Form | None]] = Memo(
    count_max=512, bytes_max=128 * 1024, text_bytes_max=512
)
"""By the stretch, or its parts; None for what is not plain."""


class _NotPlain(ValueError):
    """To be read as a message."""


def takes_long(message: Buffer) -> bool:
    """Whether the request in `message` should be read in a worker thread: it has many numbers, or texts, one by one."""
    at, end = 0, len(message)
    try:
        while at < end:
            tag = message[at]
            size, start = read_varint(message, at + 1)
            if tag == 0x2A and (size > _CONTENTS_BYTES_MAX or _TEXTS in bytes(message[start : start + size])):
                return True
            at = start + size
    except (IndexError, ValueError):
        return False
    return False


def contents_begin(beginning: Buffer) -> tuple[str, str, int] | None:
    """Of a request that begins so: its model's name and version, and where the first of its raw contents is. None where
    that is not to be seen, or there are none."""
    name = version = ""
    at = 0
    try:
        while (tag := beginning[at]) != _RAW:
            size, start = read_varint(beginning, at + 1)
            at = start + size
            if tag == 0x0A:
                name = str(beginning[start:at], "utf-8")
            elif tag == 0x12:
                version = str(beginning[start:at], "ascii")
            elif tag not in _BEFORE_RAW:
                return None
        return name, version, read_varint(beginning, at + 1)[1]
    except (IndexError, ValueError):
        return None


def read_plain_request(data: Buffer) -> InferenceRequest | None:
    """The request in `data`, its tensors mostly views of it, or None when it must be decoded as a message: parameters
    that are refused or the door's, shared memory, classes, a version that is not plain digits, fields out of order or
    unknown, tensors without their bytes or with more than one list of elements, malformed bytes. From any thread."""
    name = version = id = ""
    parameters: dict[str, Said] | None = None
    source = data if len(data) <= COPY_BYTES_MAX else memoryview(data)
    raw: list[Buffer] = []
    form_at = form_stop = 0
    at, end = 0, len(data)
    try:
        while at < end:
            tag = data[at]
            if tag in (0x2A, 0x32):  # inputs and outputs
                if form_stop:
                    return None
                form_at = at
                while tag in (0x2A, 0x32):
                    size = data[at + 1]
                    if size < 128:
                        at += size + 2
                    else:
                        size, at = read_varint(data, at + 1)
                        at += size
                    tag = data[at] if at < end else 0
                form_stop = at
                while tag == _RAW:
                    size = data[at + 1]
                    start = at + 2
                    if size > 127:
                        size, start = read_varint(data, at + 1)
                    at = start + size
                    raw.append(source[start:at])
                    tag = data[at] if at < end else 0
                continue
            size = data[at + 1]
            start = at + 2
            if size > 127:
                size, start = read_varint(data, at + 1)
            stop = start + size
            if stop > end:
                return None
            if tag == 0x0A:
                name = bytes_of(data[start:stop]).decode()
            elif tag == 0x1A:
                id = bytes_of(data[start:stop]).decode()
            elif tag == 0x22:
                if parameters is None:
                    parameters = {}
                key, said = _parameter(data, start, stop)
                parameters[key] = said
            elif tag == 0x12:
                version = bytes_of(data[start:stop]).decode()
            else:
                return None
            at = stop
        if at != end:
            return None
        if raw:
            stretch = bytes_of(data[form_at:form_stop])
            form, contents = _forms.get(stretch) or _known_form(stretch), raw
        else:
            form, contents = _with_elements(data, form_at, form_stop, source)
        if version and not (len(version) <= _VERSION_DIGITS_MAX and version.isascii() and version.isdigit()):
            return None
        if len(form.inputs) != len(contents):
            return None
        inputs: dict[str, Tensor] = {}
        sizes: list[int] = []
        for index, (tensor, datatype, shape) in enumerate(form.inputs):
            wire = contents[index]
            inputs[tensor] = Tensor(tensor, datatype, shape, wire)
            sizes.append(len(wire))
        request = InferenceRequest(
            name, inputs, model_version=int(version) if version else LATEST, id=id, outputs=form.outputs
        )
        if len(data) >= MANY_BYTES_MIN and form.has_texts:
            request.inputs = {one: counted(value) for one, value in inputs.items()}
        request.template = form.template_for(sizes)
        if parameters is not None:
            apply_parameters(parameters.items(), request)
    except (LookupError, ValueError, error):
        return None
    except InvalidArgument:
        return None  # refused in its turn: other things may be wrong, too
    return request


def _with_elements(data: Buffer, at: int, stop: int, source: Buffer) -> tuple[Form, list[Buffer]]:
    """What a stretch describes whose inputs have their elements in them, each as its last field, and the contents of
    each input. Raises ValueError or LookupError for what is not plain."""
    parts: list[bytes] = []
    typed: list[Buffer] = []
    while at < stop:
        begin, start, size = at, at + 2, data[at + 1]
        if size > 127:
            size, start = read_varint(data, at + 1)
        at = start + size
        if data[begin] == 0x32:
            parts.append(bytes(source[begin:at]))
            continue
        last = start
        while data[last] in _BEFORE_CONTENTS:
            size = data[last + 1]
            if size > 127:
                raise _NotPlain
            last += size + 2
        size, first = data[last + 1], last + 2
        if size > 127:
            size, first = read_varint(data, last + 1)
        if data[last] != 0x2A or first + size != at:
            raise _NotPlain
        parts.append(bytes(source[start:last]))
        typed.append(source[first:at])
    if not typed:
        raise _NotPlain
    form = _known_form(tuple(parts))
    if len(typed) > len(form.inputs):
        raise _NotPlain
    return form, [memory_in(contents, form.inputs[index][1]) for index, contents in enumerate(typed)]


def _known_form(key: bytes | tuple[bytes, ...]) -> Form:
    """What a stretch describes, or one of such parts: an output, or of an input what is before its contents."""
    form = _forms.get(key, _UNKNOWN)
    if form is _UNKNOWN:
        form = _described(key)
    if form is None:
        raise _NotPlain
    return form


def _described(key: bytes | tuple[bytes, ...]) -> Form | None:
    """The same for one that is not known yet."""
    if isinstance(key, bytes):
        stretch = key
    else:
        stretch = b"".join(part if part[:1] == b"\x32" else b"\x2a" + varint(len(part)) + part for part in key)
    message = codec.decode(ModelInferRequest, stretch)
    inputs = [(entry.name, entry.datatype, tuple(entry.shape)) for entry in message.inputs]
    outputs = [entry.name for entry in message.outputs]
    is_plain = (
        not any(entry.parameters or entry.contents is not None for entry in message.inputs)
        and not any(entry.parameters for entry in message.outputs)
        and len({name for name, _, _ in inputs}) == len(inputs)
        and len(set(outputs)) == len(outputs)
    )
    form = Form(inputs, outputs) if is_plain else None
    _forms.keep(key, form, len(stretch))
    return form


def _parameter(data: Buffer, at: int, stop: int) -> tuple[str, Said]:
    """One entry of the map in data[at:stop], key and value in order and both there. Raises ValueError or IndexError for
    any other, and for what is said to the door and not to the model."""
    key_size = data[at + 1]
    key_stop = at + 2 + key_size
    value_at = key_stop + 2
    value_size = stop - value_at
    if (
        data[at] != 0x0A
        or data[key_stop] != 0x12
        or data[key_stop + 1] != value_size
        or value_size > 127
        or key_size > 127
    ):
        raise _NotPlain
    key = bytes_of(data[at + 2 : key_stop]).decode()
    if key.startswith("triton_"):
        raise _NotPlain
    tag = data[value_at]
    if tag == 0x1A:
        if data[value_at + 1] != value_size - 2:
            raise _NotPlain
        return key, (STRING, bytes_of(data[value_at + 2 : stop]).decode())
    if tag == 0x21:
        if value_size != 9:
            raise _NotPlain
        return key, (DOUBLE, _DOUBLE(data, value_at + 1)[0])
    if tag not in (0x08, 0x10, 0x28):
        raise _NotPlain
    value = data[value_at + 1]
    value_stop = value_at + 2
    if value > 127:
        value, value_stop = read_varint(data, value_at + 1)
    if value_stop != stop:
        raise _NotPlain
    if tag == 0x08:
        return key, (BOOL, value != 0)
    if tag == 0x28:
        return key, (UINT64, value)
    return key, (INT64, value - (1 << 64) if value >> 63 else value)
