"""The JSON head of an HTTP inference request: its members in the protocol's order, words and classes of fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .datatype import BY_NAME
from .fault import InvalidArgument
from .inference import Template
from .json_tensor import encode_json_data
from .json_text import as_array, as_boolean, as_string, as_unsigned, member, members, wrong_type
from .shared_memory import SharedMemoryRange, SharedUse
from .tensor import Tensor
from .text import encodable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from .fault import Fault
    from .inference import InferenceRequest, Parameter
    from .shared_memory import Regions
    from .tensor import Buffer

_INT64_MAX = 2**63 - 1
_INVALID_DATATYPE = "<invalid>"
"""Stands for every datatype that the protocol does not know, as the engine's complaint spells it."""
_NO_MEMBERS: dict[str, Any] = {}
_MEANT = frozenset({"priority", "timeout", "binary_data_output", "sequence_id", "sequence_start", "sequence_end"})
"""Parameters that are the protocol's; others are the model's."""
_PARSE_SHAPE = "Unable to parse 'shape': "
_NOT_ONE_SOURCE = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)


class ReplyFormat:
    """What the request said about its answer. A value, shared between requests of one form: never write to it.

    Only the encoder does: `form` is what it has worked out for the last answer in this format.
    """

    __slots__ = ("binary", "binary_default", "classification", "form", "shared")

    def __init__(
        self,
        binary_default: bool = False,
        binary: Mapping[str, bool] | None = None,
        classification: Mapping[str, int] | None = None,
        shared: Collection[str] = (),
    ) -> None:
        self.binary_default = binary_default
        """Whether outputs that the request does not list are binary."""
        self.binary: Mapping[str, bool] = binary or {}
        """For each listed output, whether it is binary."""
        self.classification: Mapping[str, int] = classification or {}
        """For each output to be ranked, how many classes to tell, at least 1."""
        self.shared = shared
        """Outputs that go to shared memory: of these the answer has no bytes."""
        self.form: Any = None

    def __repr__(self) -> str:
        return f"ReplyFormat({self.binary_default}, {dict(self.binary)}, {dict(self.classification)})"


class InferHead:
    """What a head says, but for its parameters and tensors' elements."""

    __slots__ = (
        "_binary",
        "_classification",
        "_replies",
        "binary_inputs",
        "data_count",
        "id",
        "inputs",
        "is_binary",
        "member_count",
        "outputs",
        "parameters",
        "reply",
        "shared_inputs",
        "shared_outputs",
        "shares",
        "tail_size",
        "template",
    )

    def __init__(self) -> None:
        self.template: Template | None = Template()
        """None where the sizes of inputs do not follow from the head."""
        self.id = ""
        self.parameters: Any = None
        """The request's, as the parser has them; None where there are none."""
        self.inputs: list[tuple[str, str, tuple[int, ...]]] = []
        """Name, datatype and shape of each, in order."""
        self.binary_inputs: list[tuple[str, str, tuple[int, ...], slice]] = []
        """Of those whose bytes follow the head, with where they are behind it."""
        self.tail_size = 0
        """How many bytes follow the head."""
        self.data_count = 0
        """How many inputs have their elements in the head."""
        self.shared_inputs: dict[str, SharedMemoryRange] = {}
        """Where the inputs lie that are in shared memory."""
        self.shared_outputs: list[tuple[str, SharedMemoryRange]] = []
        """Where outputs go that are wanted in shared memory, as listed."""
        self.shares = False
        """Whether there are any of these."""
        self.is_binary = False
        """Once settled: whether the head has no parameters, and the bytes of all inputs behind it."""
        self.member_count = 0
        """Of the objects that were read. There are more names in the text if one is repeated, or not known."""
        self.outputs: tuple[str, ...] = ()
        self.reply: ReplyFormat
        """How to answer."""
        self._binary: dict[str, bool] = {}
        self._classification: dict[str, int] = {}
        self._replies: dict[bool, ReplyFormat] = {}

    def reply_in(self, binary_default: bool) -> ReplyFormat:
        """How to answer, if that is the parameter `binary_data_output`."""
        reply = self._replies.get(binary_default)
        if reply is None:
            shared = frozenset([name for name, _ in self.shared_outputs])
            reply = ReplyFormat(binary_default, self._binary, self._classification, shared)
            self._replies[binary_default] = reply
        return reply

    def settle(self) -> None:
        """All is known: others will be filled from it."""
        self.is_binary = len(self.binary_inputs) == len(self.inputs) and self.parameters is None and not self.shares


def read_head(
    document: Any,
    tail: memoryview | bytes,
    request: InferenceRequest,
    json_byte_size_max: int,
    regions: Regions | None = None,
) -> tuple[InferHead, ReplyFormat]:
    """Fills `request`, which is new, with what the parsed `document` says, and how to answer: binary inputs are views
    of `tail`, others lie in `regions`.

    Raises the first fault in the protocol's order: id, parameters, each input with its bytes, bytes left over, outputs.
    """
    head = InferHead()
    root = document if type(document) is dict else {}
    head.member_count = len(root)
    if "id" in root:
        request.id = head.id = as_string(root["id"], "Unable to parse 'id': ")
    binary_default = False
    if "parameters" in root:
        head.parameters = root["parameters"]
        binary_default = read_parameters(head.parameters, request)
        head.member_count += len(head.parameters)
    shared = SharedUse(regions)
    inputs = request.inputs
    at = 0
    for entry in as_array(member(root, "inputs", "Unable to parse 'inputs': "), "Unable to parse 'inputs': "):
        name, datatype, shape, data, byte_size = _read_input(entry, head, inputs, json_byte_size_max)
        head.inputs.append((name, datatype, shape))
        if data is not None:
            head.data_count += 1
            if datatype == "BYTES":
                head.template = None
            inputs[name] = Tensor(name, datatype, shape, data)
            continue
        place = head.shared_inputs.get(name)
        if place is not None:
            inputs[name] = shared.input(name, datatype, shape, place)
            continue
        end = at + byte_size
        if end > len(tail):
            raise input_too_short(name, end - len(tail), request.model_name)
        head.binary_inputs.append((name, datatype, shape, slice(at, end)))
        inputs[name] = Tensor(name, datatype, shape, tail[at:end])
        at = end
    if at != len(tail):
        raise surplus_bytes(request.model_name)
    head.tail_size = at
    _read_outputs(head, root.get("outputs", []), shared)
    request.outputs = head.outputs
    if shared.inputs or shared.outputs:
        request.shared = shared
        head.shares = True
        head.template = None
    head.reply = head.reply_in(binary_default)
    return head, head.reply


def input_too_short(name: str, missing: int, model_name: str) -> Fault:
    return InvalidArgument(
        f"unexpected size for input '{name}', expecting {missing} additional bytes for model '{model_name}'"
    )


def exists_already(request_id: str, what: str, name: str) -> Fault:
    """The refusal of an input or output that is listed twice."""
    return InvalidArgument(f"[request id: {request_id or '<id_unknown>'}] {what} '{name}' already exists in request")


def surplus_bytes(model_name: str) -> Fault:
    return InvalidArgument(f"unexpected additional input data for model '{model_name}'")


def read_parameters(value: Any, request: InferenceRequest) -> bool:
    """Fills `request`, which is new, from its parameters. Returns `binary_data_output`."""
    binary_default = False
    custom: dict[str, Parameter] = {}
    for key, item in members(value, "failed to get request params.: ").items():
        if type(item) is str and key not in _MEANT and not key.startswith("triton_"):
            custom[key] = item if item.isascii() else encodable(item)  # one named `data` may hold stray bytes
            continue
        match key:
            case "priority":
                request.priority = as_unsigned(item, "Unable to parse 'priority': ")
            case "timeout":
                request.timeout_us = as_unsigned(item, "Unable to parse 'timeout': ")
            case "binary_data_output":
                binary_default = as_boolean(item, "Unable to parse 'binary_data_output': ")
            case "sequence_id":
                if type(item) is int and item >= 0:
                    request.correlation_id = item
                else:
                    request.correlation_id = as_string(item, "Unable to parse 'sequence_id': ")
            case "sequence_start":
                request.sequence_start = as_boolean(item, "Unable to parse 'sequence_start': ")
            case "sequence_end":
                request.sequence_end = as_boolean(item, "Unable to parse 'sequence_end': ")
            case _ if key.startswith("triton_"):
                raise InvalidArgument(
                    "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
                )
            case _ if type(item) in (int, float, bool):
                custom[key] = item
            case _:
                raise InvalidArgument(
                    f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'."
                )
    if custom:
        request.parameters = custom
    return binary_default


def _read_input(
    entry: Any, head: InferHead, earlier: Mapping[str, Tensor], json_byte_size_max: int
) -> tuple[str, str, tuple[int, ...], Buffer | None, int]:
    """One input: name, datatype, shape, then its elements if the head has them, or the bytes that it takes of the
    tail."""
    fields = entry if type(entry) is dict else _NO_MEMBERS
    parameters = fields.get("parameters")
    if type(parameters) is not dict:
        parameters = _NO_MEMBERS
    head.member_count += len(fields) + len(parameters)
    if ("data" in fields) + ("binary_data_size" in parameters) + ("shared_memory_region" in parameters) != 1:
        sources = [f"'{source}'" for source in ("data",) if source in fields]
        sources += [f"'{source}'" for source in ("binary_data_size", "shared_memory_region") if source in parameters]
        raise InvalidArgument(_NOT_ONE_SOURCE + (f"set {' '.join(sources)}" if sources else "no field is set"))

    name = _string_member(fields, "name")
    datatype = _string_member(fields, "datatype")
    shape = as_array(fields.get("shape") or member(fields, "shape", _PARSE_SHAPE), _PARSE_SHAPE)
    element_count = 1 if shape else 0  # no dimensions, no elements: the engine says what is missing
    for size in shape:
        if type(size) is not int or size < 0:
            raise wrong_type("unsigned-integer", _PARSE_SHAPE)
        element_count *= size
    if element_count > _INT64_MAX or (shape and max(shape) > _INT64_MAX):
        raise InvalidArgument(
            f"invalid shape for input '{name}': shape [{','.join(map(str, shape))}] causes total element count to "
            f"exceed maximum size of {_INT64_MAX}"
        )
    if name in earlier:
        raise exists_already(head.id, "input", name)
    known_datatype = datatype if datatype in BY_NAME else _INVALID_DATATYPE
    if "binary_data_size" in parameters:
        byte_size = as_unsigned(parameters["binary_data_size"], "Unable to parse 'binary_data_size': ")
        return name, known_datatype, tuple(shape), None, byte_size
    if "shared_memory_region" in parameters:
        head.shared_inputs[name] = _read_range(parameters)
        return name, known_datatype, tuple(shape), None, 0
    data = encode_json_data(name, datatype, element_count, fields["data"], json_byte_size_max)
    return name, known_datatype, tuple(shape), data, 0


def _read_outputs(head: InferHead, value: Any, shared: SharedUse) -> None:
    """Fills the requested outputs and their forms."""
    binary = head._binary
    for entry in as_array(value, "Unable to parse 'outputs': "):
        name = _string_member(entry, "name")
        if name in binary:
            raise exists_already(head.id, "output", name)
        parameters = entry.get("parameters")
        head.member_count += len(entry) + (len(parameters) if type(parameters) is dict else 0)
        is_binary, class_count, place = _read_form(parameters) if type(parameters) is dict else (False, 0, None)
        if place is not None:
            head.shared_outputs.append((name, place))
            shared.output(name, place)
        binary[name] = is_binary
        if class_count:
            head._classification[name] = class_count
    head.outputs = tuple(binary)


def _read_form(parameters: dict[str, Any]) -> tuple[bool, int, SharedMemoryRange | None]:
    """Of one requested output: whether it is binary, how many classes to rank, and where in shared memory it goes."""
    if "shared_memory_region" not in parameters:
        class_count = as_unsigned(parameters.get("classification", 0), "Unable to set 'classification': ")
        return as_boolean(parameters.get("binary_data", False), "Unable to parse 'binary_data': "), class_count, None
    place = _read_range(parameters)
    if "classification" in parameters:
        raise InvalidArgument("Output can't set both 'shared_memory_region' and 'classification'")
    if as_boolean(parameters.get("binary_data", False), "Unable to set 'binary_data': "):
        raise InvalidArgument("Output can't set both 'shared_memory_region' and 'binary_data'")
    return False, 0, place


def _read_range(parameters: dict[str, Any]) -> SharedMemoryRange:
    return SharedMemoryRange(
        as_string(parameters["shared_memory_region"], "Unable to parse 'shared_memory_region': "),
        as_unsigned(parameters.get("shared_memory_offset", 0), "Unable to parse 'shared_memory_offset': "),
        as_unsigned(parameters.get("shared_memory_byte_size", 0), "Unable to parse 'shared_memory_byte_size': "),
    )


def _string_member(fields: Any, name: str) -> str:
    if type(fields) is dict and type(value := fields.get(name)) is str:
        return value
    prefix = f"Unable to parse '{name}': "
    return as_string(member(fields, name, prefix), prefix)
