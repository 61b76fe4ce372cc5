"""Whether the models of an ensemble fit together: tensors, datatypes, shapes, batches, decoupled answers. Pure.

What a configuration alone can be wrong in is refused before, see schema/config/ensemble_graph.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ....schema.config.collecting import refuse_all
from ....schema.config.normal_form import shape_text
from ....schema.fault import InvalidArgument
from .graph import Graph

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from ....schema.wire.generated.inference import DataType, ModelConfig, ModelInput, ModelOutput
    from .graph import Step


@attrs.frozen
class _Kind:
    """What one model says of a tensor."""

    model: str
    data_type: DataType
    dims: Sequence[int]
    batched: bool

    @property
    def whole(self) -> Sequence[int]:
        """The dims, with the one of the batch."""
        return (-1, *self.dims) if self.batched else self.dims


def check_fit(config: ModelConfig, members: Sequence[ModelConfig]) -> None:
    """`members` are the configurations of the steps' models, by step. Raises InvalidArgument for all that does not fit,
    in the protocol's words."""
    batched = config.max_batch_size > 0
    own: list[ModelInput | ModelOutput] = [*config.input, *config.output]
    known = {tensor.name: _Kind(config.name, tensor.data_type, _own_dims(tensor), batched) for tensor in own}
    found: list[str] = []
    for step, member in zip(Graph.of(config).steps, members, strict=True):
        if 0 < member.max_batch_size < config.max_batch_size:
            found.append(
                f"ensemble {config.name} allows maximum batch size {config.max_batch_size}, but it contains model "
                f"{step.model_name} which only allows maximum batch size to be {member.max_batch_size}"
            )
        found += _input_faults(f"in ensemble {config.name}", step, member, known)
        found += _output_faults(f"in ensemble {config.name}", step, member, known)
    refuse_all(found)


def check_cache(config: ModelConfig, *, decoupled: bool, remembers: bool) -> None:
    """That answers which an ensemble wants kept are its models' to be given again: not those of decoupled models, nor
    of models that remember a sequence. Raises InvalidArgument."""
    if config.response_cache is None or not config.response_cache.enable:
        return
    told = f"Response Cache does not currently support model {config.name} with"
    found = [f"{told} 'decoupled' transaction policy. Please disable the response cache."] if decoupled else []
    if remembers:
        found.append(f"{told} sequence batching scheduler. Please disable the response cache.")
    refuse_all(found)


def check_stages(config: ModelConfig, decoupled: Container[int]) -> None:
    """That every step, and the answer, reads what the same decoupled steps have led to, one after the other: tensors
    that come differently often cannot be brought together. `decoupled` are indices of steps. Raises InvalidArgument."""
    graph = Graph.of(config)
    last: dict[str, int] = dict.fromkeys(graph.inputs, -1)
    """Tensor -> the last decoupled step on the way to it; -1 for none."""
    waiting = list(graph.steps)
    while waiting:
        ready = [step for step in waiting if step.reads <= last.keys()]
        assert ready, "a circle, or what reads a tensor that nothing writes, is refused before"
        for step in ready:
            before = _one(config.name, last, step.reads)
            after = step.index if step.index in decoupled else before
            last.update({tensor: after for _, tensor in step.outputs})
        waiting = [step for step in waiting if step not in ready]
    _one(config.name, last, graph.outputs)


def _one(ensemble: str, last: Mapping[str, int], tensors: Iterable[str]) -> int:
    found = {last[tensor] for tensor in tensors}
    if len(found) > 1:
        # The protocol's text names the ensemble where it says model.
        raise InvalidArgument(
            f"in ensemble {ensemble}, step of model '{ensemble}' receives inputs originated from different decoupled "
            "models"
        )
    return found.pop()


def _input_faults(where: str, step: Step, member: ModelConfig, known: dict[str, _Kind]) -> Iterator[str]:
    inputs = {tensor.name: tensor for tensor in member.input}
    mapped = dict(step.inputs)
    for name, tensor in step.inputs:
        if name not in inputs:
            yield (
                f"{where}, ensemble tensor {tensor} is mapping to non-existing input {name} in model {step.model_name}"
            )
    for name, entry in inputs.items():
        if name in mapped:
            yield from _tensor_faults(where, mapped[name], _kind(step, member, entry), known)
        elif not entry.optional:
            yield f"{where}, input {name} in model {step.model_name} is not mapped to any ensemble tensors"


def _output_faults(where: str, step: Step, member: ModelConfig, known: dict[str, _Kind]) -> Iterator[str]:
    outputs = {tensor.name: tensor for tensor in member.output}
    for name, tensor in step.outputs:
        if name in outputs:
            yield from _tensor_faults(where, tensor, _kind(step, member, outputs[name]), known)
        else:
            yield (
                f"{where}, ensemble tensor {tensor} is mapped from non-existing output {name} in model "
                f"{step.model_name}"
            )


def _tensor_faults(where: str, tensor: str, kind: _Kind, known: dict[str, _Kind]) -> Iterator[str]:
    """Against what was said of the tensor first."""
    first = known.setdefault(tensor, kind)
    told = f"{where}, ensemble tensor {tensor}: inconsistent"
    if first.data_type != kind.data_type:
        yield (
            f"{told} data type: {first.data_type.name} is inferred from model {first.model} while "
            f"{kind.data_type.name} is inferred from model {kind.model}"
        )
    # A model without batches may take whole batches for its rows.
    if not (match(first.dims, kind.dims) or match(first.whole, kind.whole)):
        yield (
            f"{told} shape: {shape_text(first.whole)} is inferred from model {first.model} while "
            f"{shape_text(kind.whole)} is inferred from model {kind.model}"
        )


def match(dims: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two shapes can be the same; -1 stands for any size."""
    return len(dims) == len(others) and all(
        -1 in (size, other) or size == other for size, other in zip(dims, others, strict=True)
    )


def _kind(step: Step, member: ModelConfig, entry: ModelInput | ModelOutput) -> _Kind:
    return _Kind(step.model_name, entry.data_type, tuple(entry.dims), member.max_batch_size > 0)


def _own_dims(tensor: ModelInput | ModelOutput) -> Sequence[int]:
    return tuple(tensor.dims if tensor.reshape is None else tensor.reshape.shape)
