"""Whether one model takes a request: the protocol's checks, compiled once per model version.

The checks and their order are the protocol's; the texts are facts that clients match on. A request that passes gets its
row count and its batching key; a request that does not is refused synchronously and counted nowhere. A request without
rows is one, with a key of its own: it is executed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from ...schema.config.normal_form import shape_text
from ...schema.datatype import BY_NAME, BY_NUMBER
from ...schema.fault import InvalidArgument
from ...schema.inference import InferenceRequest, Template
from ...schema.shared_memory import SharedTensor
from ...schema.tensor import Tensor, encode_bytes, holds_elements
from ...schema.texts import CountedTensor

if TYPE_CHECKING:
    from ...schema.tensor import Buffer
    from ...schema.wire.generated.inference import ModelConfig
    from .job import Job

BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


@attrs.frozen
class InputRule:
    """What one input of the model must look like."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    """Without the batch dimension; -1 matches anything."""
    fixed: bool
    """No dimension is variable."""
    element_bytes: int
    """0 for BYTES."""
    row_bytes: int
    """Bytes of one row of a fixed shape, 0 for BYTES."""
    optional: bool
    by_rows: bool
    """It has a batch dimension: the model batches, and its values are not the shapes of others."""


Admitted = tuple[int, object, Sequence[str]]
"""Rows, batching key, and the inputs whose elements are to be counted each time."""
KNOWN_MAX = 1024
ADMITTED_MAX = 256


class Admission:
    """The checks of one model version. Stateless after construction; never blocks."""

    def __init__(self, config: ModelConfig) -> None:
        self._admitted: dict[Template, Admitted] = {}
        """By the forms of requests that were found right. Bounded: clients choose."""
        self.model_name = config.name
        self.max_batch_size = config.max_batch_size
        self.inputs: dict[str, InputRule] = {}
        for entry in config.input:
            kind = BY_NUMBER[int(entry.data_type)]
            dims = tuple(entry.dims)
            if entry.is_shape_tensor and config.max_batch_size > 0 and dims and dims[0] != -1:
                dims = (dims[0] + 1, *dims[1:])  # the first value is the request's batch size
            fixed = -1 not in dims
            self.inputs[entry.name] = InputRule(
                name=entry.name,
                datatype=kind.name,
                dims=dims,
                fixed=fixed,
                element_bytes=kind.byte_size,
                row_bytes=math.prod(dims) * kind.byte_size if fixed else 0,
                optional=entry.optional,
                by_rows=config.max_batch_size > 0 and not entry.is_shape_tensor,
            )
        self._known: dict[tuple[str, str, tuple[int, ...]], tuple[int, int]] = {}
        """Name, datatype and shape of inputs found right -> rows, at least one, and bytes. Bounded: clients choose."""
        self.required = [name for name, rule in self.inputs.items() if not rule.optional]
        self.outputs = frozenset(entry.name for entry in config.output)
        ragged = {entry.name for entry in config.input if entry.allow_ragged_batch}
        self.shape_tensors = tuple(entry.name for entry in config.input if entry.is_shape_tensor)
        """Inputs that must be equal within a batch."""
        self.variable = tuple(
            name
            for name, rule in self.inputs.items()
            if not rule.fixed and name not in ragged and name not in self.shape_tensors
        )
        """Inputs whose shapes must be equal within a batch."""
        self.has_optional = len(self.required) < len(self.inputs)
        self.by_set = self.has_optional or bool(self.shape_tensors)
        """More than shapes must be equal within a batch."""
        self.plain = (
            bool(self.inputs)
            and not self.has_optional
            and not self.shape_tensors
            and all(rule.fixed and rule.element_bytes for rule in self.inputs.values())
        )
        """Nothing of a request needs looking at but names, datatypes, shapes and sizes, and any two may be joined."""

    def admit(self, job: Job) -> None:
        """Checks the job's request and sets its `batch_size` and `key`. Raises InvalidArgument."""
        request = job.request
        template = request.template
        admitted = None if template is None else self._admitted.get(template)
        if admitted is not None:
            job.batch_size, key, counted = admitted
            if key is not None:
                job.key = key
            for name in counted:
                self._check_size(request, request.inputs[name], self.inputs[name])
        elif not (self.plain and self._admit_known(job)):
            self._examine(job)
        if request.shared is not None:
            for tensor in request.shared.inputs:
                size = self.inputs[tensor.name].element_bytes * math.prod(tensor.shape)
                if size != tensor.byte_size and tensor.datatype != "BYTES":
                    self._refuse_size(request, tensor.name, size, tensor.byte_size)

    def check_fetched(self, request: InferenceRequest, tensor: SharedTensor) -> None:
        """The rest of the checks for an input that was read from shared memory. From any thread; raises
        InvalidArgument."""
        if tensor.datatype == "BYTES":
            self._check_size(request, tensor, self.inputs[tensor.name])

    def _admit_known(self, job: Job) -> bool:
        """For shapes seen before. False, and nothing is decided, where anything is new or wrong."""
        request = job.request
        inputs = request.inputs
        if len(inputs) != len(self.inputs) or (request.outputs and not self.outputs.issuperset(request.outputs)):
            return False
        known = self._known
        rows = 0
        for name, tensor in inputs.items():
            shape = tensor.shape
            if type(shape) is not tuple:
                return False
            found = known.get((name, tensor.datatype, shape))
            if found is None or (rows and found[0] != rows):
                return False
            rows, size = found
            wire = tensor.wire
            if wire is not None and len(wire) != size:
                return False
        job.batch_size = rows
        if request.template is not None:
            self._keep(request.template, (rows, None, ()))
        return True

    def _keep(self, template: Template, admitted: Admitted) -> None:
        if len(self._admitted) >= ADMITTED_MAX:
            self._admitted.clear()
        self._admitted[template] = admitted

    def _examine(self, job: Job) -> None:
        request = job.request
        if request.raw:
            job.request = request = self._deduce(request)
        for name in request.outputs:
            if name not in self.outputs:
                raise InvalidArgument(f"unexpected inference output '{name}' for model '{self.model_name}'")
        inputs = request.inputs
        if len(inputs) != len(self.inputs):
            self._check_count(request)
        rules = self.inputs
        batched = self.max_batch_size > 0
        first: int | None = None
        for name, tensor in inputs.items():
            rule = rules.get(name)
            if rule is None:
                raise InvalidArgument(f"unexpected inference input '{name}' for model '{self.model_name}'")
            shape = tensor.shape
            if rule.by_rows:
                if not shape:
                    raise InvalidArgument(
                        f"{request.log_prefix()}input '{name}' has no shape but model requires batch dimension for "
                        f"'{self.model_name}'"
                    )
                if first is None:
                    first = shape[0]
                elif first != shape[0]:
                    raise InvalidArgument(
                        f"{request.log_prefix()}input '{name}' batch size does not match other inputs for "
                        f"'{self.model_name}'"
                    )
        rows = 1 if first is None else first
        if rows > self.max_batch_size and batched:
            raise InvalidArgument(
                f"{request.log_prefix()}inference request batch-size must be <= {self.max_batch_size} for "
                f"'{self.model_name}'"
            )
        for name, tensor in inputs.items():
            rule = rules[name]
            if tensor.datatype != rule.datatype:
                known = tensor.datatype if tensor.datatype in BY_NAME else "<invalid>"
                raise InvalidArgument(
                    f"{request.log_prefix()}inference input '{name}' data-type is '{known}', but model "
                    f"'{self.model_name}' expects '{rule.datatype}'"
                )
            shape = tensor.shape
            if rows < 0 or not rule.fixed or (tuple(shape[1:]) if rule.by_rows else tuple(shape)) != rule.dims:
                self._check_shape(request, tensor, rule)
            if tensor.wire is not None:
                if rule.fixed and rule.element_bytes:
                    expected = rule.row_bytes * rows if rule.by_rows else rule.row_bytes
                    if len(tensor.memory()) != expected:
                        self._refuse_size(request, name, expected, len(tensor.memory()))
                else:
                    self._check_size(request, tensor, rule)
        job.batch_size = rows
        if rows == 0:
            job.key = object()  # equal to no other
        elif self.plain:
            for name, tensor in inputs.items():
                if len(self._known) < KNOWN_MAX:
                    size = rules[name].row_bytes * rows
                    self._known[name, tensor.datatype, tuple(tensor.shape)] = (rows, size)
        elif self.by_set:
            job.key = (
                frozenset(inputs),
                *(tuple(inputs[name].shape[1:]) for name in self.variable if name in inputs),
                *(_value(inputs[name]) for name in self.shape_tensors if name in inputs),
            )
        elif self.variable:
            job.key = tuple([tuple(inputs[name].shape[1:]) for name in self.variable])
        if rows and request.template is not None and request.shared is None and not self.shape_tensors:
            counted = [name for name in inputs if not rules[name].element_bytes]
            self._keep(request.template, (rows, job.key, counted))

    def _check_count(self, request: InferenceRequest) -> None:
        got = "[" + ",".join(f"'{name}'" for name in request.inputs) + "]"
        missing_names = [name for name in self.required if name not in request.inputs]
        missing = "[" + ",".join(f"'{name}'" for name in missing_names) + "]"
        count, required, total = len(request.inputs), len(self.required), len(self.inputs)
        if not self.has_optional:
            expected = f"expected {total} inputs"
        elif not required <= count <= total:
            expected = f"expected number of inputs between {required} and {total}"
        else:
            return
        if not missing_names:
            missing = "]"  # the protocol's quirk, kept: tests in the wild match on the whole text
        raise InvalidArgument(
            f"{request.log_prefix()}{expected} but got {count} inputs for model '{self.model_name}'. "
            f"Got input(s) {got}, but missing required input(s) {missing}. Please provide all required input(s)."
        )

    def _check_shape(self, request: InferenceRequest, tensor: Tensor, rule: InputRule) -> None:
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape):
            raise InvalidArgument(
                f"{request.log_prefix()}All input dimensions should be specified for input '{rule.name}' for model "
                f"'{self.model_name}', got {shape_text(shape)}"
            )
        batched = rule.by_rows
        given = shape[1:] if batched else shape
        if len(given) == len(rule.dims) and all(
            want in (-1, size) for want, size in zip(rule.dims, given, strict=True)
        ):
            return
        expected = (-1, *rule.dims) if batched else rule.dims
        raise InvalidArgument(
            f"{request.log_prefix()}unexpected shape for input '{rule.name}' for model '{self.model_name}'. Expected "
            f"{shape_text(expected)}, got {shape_text(shape)}. {BATCH_NOTE if batched else ''}"
        )

    def _check_size(self, request: InferenceRequest, tensor: Tensor, rule: InputRule) -> None:
        memory = tensor.memory()
        expected = math.prod(tensor.shape)
        if rule.element_bytes:
            if len(memory) != expected * rule.element_bytes:
                self._refuse_size(request, rule.name, expected * rule.element_bytes, len(memory))
            return
        if isinstance(tensor, CountedTensor) and tensor.elements == expected:
            return
        if not holds_elements(memory, expected):
            self._refuse_elements(request, rule.name, memory, expected)

    def _refuse_size(self, request: InferenceRequest, name: str, expected: int, got: int) -> None:
        raise InvalidArgument(
            f"{request.log_prefix()}input byte size mismatch for input '{name}' for model '{self.model_name}'. "
            f"Expected {expected}, got {got}"
        )

    def _refuse_elements(self, request: InferenceRequest, name: str, memory: Buffer, expected: int) -> None:
        """Says what is wrong with BYTES, as whoever walks their lengths finds it."""
        view = memoryview(memory)
        at, end, count = 0, len(view), 0
        about = f"for inference input '{name}' for model '{self.model_name}'"
        while at < end:
            if end - at < 4:
                raise InvalidArgument(
                    f"{request.log_prefix()}incomplete string length indicator {about}, expecting 4 bytes but only "
                    f"{end - at} bytes available. Please make sure the string length indicator is in one buffer."
                )
            if count >= expected:
                raise InvalidArgument(
                    f"{request.log_prefix()}unexpected number of string elements {count + 1} {about}, "
                    f"expecting {expected}"
                )
            size = int.from_bytes(view[at : at + 4], "little")
            at += 4
            if size > end - at:
                raise InvalidArgument(
                    f"{request.log_prefix()}incomplete string data {about}, expecting string of length {size} but only "
                    f"{end - at} bytes available"
                )
            at += size
            count += 1
        if count < expected:
            raise InvalidArgument(f"{request.log_prefix()}expected {expected} string elements {about}, got {count}")

    def _deduce(self, request: InferenceRequest) -> InferenceRequest:
        """A raw binary request as an ordinary one: the model has one input, and its shape follows from the size."""
        prefix = request.log_prefix()
        if len(self.inputs) != 1:
            raise InvalidArgument(
                f"{prefix}Raw request must only have 1 input (found {len(request.inputs)}) to be deduced but got "
                f"{len(self.inputs)} inputs in '{self.model_name}' model configuration"
            )
        (rule,) = self.inputs.values()
        (raw,) = request.inputs.values()
        memory = raw.memory()
        dims = list(rule.dims)
        if dims.count(-1) > 1:
            raise InvalidArgument(
                f"{prefix}The shape of the raw input '{rule.name}' can not be deduced because there are more than one "
                "variable-sized dimension"
            )
        if not rule.element_bytes:
            if math.prod(dims) != 1:
                raise InvalidArgument(
                    f"{prefix}For BYTE datatype raw input '{rule.name}', the model must have input shape [1]"
                )
            dims = [1] * len(dims)
            memory = encode_bytes([bytes(memory)])
        elif -1 in dims:
            fixed = math.prod(size for size in dims if size != -1) * rule.element_bytes
            dims[dims.index(-1)] = len(memory) // fixed
        shape = [1, *dims] if self.max_batch_size > 0 else dims
        deduced = Tensor(rule.name, rule.datatype, shape, memory)
        found = InferenceRequest(
            request.model_name,
            {rule.name: deduced},
            model_version=request.model_version,
            id=request.id,
            outputs=request.outputs,
            parameters=request.parameters,
            priority=request.priority,
            timeout_us=request.timeout_us,
            correlation_id=request.correlation_id,
            sequence_start=request.sequence_start,
            sequence_end=request.sequence_end,
        )
        found.trace = request.trace
        return found


def _value(tensor: Tensor) -> object:
    """Equal for tensors of equal shape and bytes. One in shared memory, which has not been read, equals no other."""
    if isinstance(tensor, SharedTensor):
        return object()
    return tuple(tensor.shape), bytes(tensor.memory())
