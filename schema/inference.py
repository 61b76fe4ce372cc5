"""One inference request and one response, the same for every door and for callers in process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .shared_memory import SharedUse
    from .tensor import Buffer

Parameter = str | int | bool | float
"""A custom request or response parameter."""

LATEST = -1
"""The version that means "the highest one that is ready"."""


class FixedParameters(dict[str, Parameter]):
    """Parameters that many responses have in common, never changed. Encoders keep here what they worked out."""

    __slots__ = ("json", "protobuf")

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        super().__init__(parameters)
        self.json: bytes | None = None
        self.protobuf: bytes | None = None


class Template:
    """Stands for the form of requests: their inputs' names, datatypes, shapes and sizes in bytes, and the outputs that
    they ask for. Nothing but itself: whoever has examined one of them knows the others by it.
    """

    __slots__ = ()


_Request = TypeVar("_Request", bound="InferenceRequest")


class InferenceRequest:
    """What a caller wants of one model. A value: doors build it, the engine reads it and never writes it."""

    __slots__ = (
        "correlation_id",
        "id",
        "inputs",
        "model_name",
        "model_version",
        "outputs",
        "parameters",
        "priority",
        "raw",
        "sequence_end",
        "sequence_start",
        "shared",
        "template",
        "timeout_us",
        "trace",
    )

    pinned: ClassVar[bool] = False
    """Whoever sends it has pinned the version that gets it, and is served also while that is being unloaded."""
    goes_on: ClassVar[bool] = False
    """All that its answer leads to are further requests: whoever waits for it waits for those."""
    depth: ClassVar[int] = 0
    """How many calls deep it is: 0 for one that came from outside, 1 for one that a model made for such a one."""

    def __init__(
        self,
        model_name: str,
        inputs: dict[str, Tensor],
        *,
        model_version: int = LATEST,
        id: str = "",
        outputs: Sequence[str] = (),
        parameters: dict[str, Parameter] | None = None,
        priority: int = 0,
        timeout_us: int = 0,
        correlation_id: int | str = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
        raw: bool = False,
        shared: SharedUse | None = None,
    ) -> None:
        self.model_name = model_name
        self.model_version = model_version
        self.id = id
        self.inputs = inputs
        """By name, in the order received."""
        self.outputs = outputs
        """Names of the requested outputs; empty means all."""
        self.parameters = parameters
        """Custom parameters, None for none."""
        self.priority = priority
        """0 means the model's default level."""
        self.timeout_us = timeout_us
        """The protocol's `timeout`: a limit on queueing, in microseconds; 0 for none."""
        self.correlation_id = correlation_id
        """Sequence id; 0 and "" mean none."""
        self.sequence_start = sequence_start
        self.sequence_end = sequence_end
        self.raw = raw
        """True for a raw binary request: `inputs` is {"": bytes as UINT8}; name, datatype and shape follow from the
        model."""
        self.shared = shared
        """What lies in shared memory with the client, None for nothing."""
        self.template: Template | None = None
        """Shared by requests of one form, None where nobody tells it."""
        self.trace: Any = None
        """The engine's trace, set by a door for the few requests that are traced."""

    def without_inputs(self) -> InferenceRequest:
        """Another one that differs in its inputs only, which are to be set. Not for shared memory."""
        other = self.with_inputs(InferenceRequest, self.id, {})
        other.parameters = self.parameters and self.parameters.copy()
        return other

    def with_inputs(self, kind: type[_Request], id: str, inputs: dict[str, Tensor]) -> _Request:
        """Another one, of that class, with that id and those inputs, neither raw nor in shared memory, which may share
        this one's parameters. A third of what it costs to make one of keywords."""
        other = kind.__new__(kind, self.model_name, inputs)  # type: ignore[call-arg]  # compiled, it calls `__init__`
        other.model_name = self.model_name
        other.model_version = self.model_version
        other.id = id
        other.inputs = inputs
        other.outputs = self.outputs
        other.parameters = self.parameters
        other.priority = self.priority
        other.timeout_us = self.timeout_us
        other.correlation_id = self.correlation_id
        other.sequence_start = self.sequence_start
        other.sequence_end = self.sequence_end
        other.raw = False
        other.shared = None
        other.template = self.template
        other.trace = None
        return other

    def log_prefix(self) -> str:
        """What precedes request-scoped error texts: `[request id: <id>] `."""
        return f"[request id: {self.id or '<id_unknown>'}] "


class ResponseTemplate:
    """Stands for the form of responses: of one model version, with outputs of the same names, datatypes, shapes and
    sizes, in order. Encoders keep here what they worked out for one of them."""

    __slots__ = ("model_name", "model_version", "protobuf", "tensors")

    def __init__(
        self, model_name: str, model_version: str, tensors: Sequence[tuple[str, str, tuple[int, ...]]]
    ) -> None:
        self.model_name = model_name
        self.model_version = model_version
        self.tensors = tensors
        """Name, datatype and shape of each output."""
        self.protobuf: Any = None

    def response(self, id: str, wires: Sequence[Buffer]) -> InferenceResponse:
        """The one with these bytes, which have the right sizes."""
        return InferenceResponse(self.model_name, self.model_version, None, id, None, self, wires)


class InferenceResponse:
    """One answer."""

    __slots__ = ("_outputs", "id", "model_name", "model_version", "parameters", "template", "wires")

    def __init__(
        self,
        model_name: str,
        model_version: str,
        outputs: list[Tensor] | None,
        id: str = "",
        parameters: dict[str, Parameter] | None = None,
        template: ResponseTemplate | None = None,
        wires: Sequence[Buffer] = (),
    ) -> None:
        self.model_name = model_name
        self.model_version = model_version
        self.id = id
        self.parameters = parameters
        self.template = template
        """Shared by responses of one form, None where nobody tells it."""
        self.wires = wires
        """With a template: the outputs' wire forms, in order."""
        self._outputs = outputs

    @property
    def outputs(self) -> list[Tensor]:
        """In the order that the model produced them."""
        outputs = self._outputs
        if outputs is None:
            assert self.template is not None, "a response has outputs or a template"
            self._outputs = outputs = [
                Tensor(name, datatype, shape, wire)
                for (name, datatype, shape), wire in zip(self.template.tensors, self.wires, strict=True)
            ]
        return outputs
