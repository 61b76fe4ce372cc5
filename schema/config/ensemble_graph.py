"""Whether the steps of an ensemble fit together: every tensor written once, every output reached from the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..fault import InvalidArgument
from .backend_names import ENSEMBLE_PLATFORM
from .collecting import refuse_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..wire.generated.inference import ModelConfig, ModelEnsembling


@attrs.define
class _Node:
    """One tensor of the ensemble, under its name there."""

    written: bool = False
    """Some step's output."""
    ready: bool = False
    """An input of the ensemble, or made of such."""
    sources: list[str] = attrs.Factory(list)
    """The tensors that the step which writes this one reads."""
    uses: list[str] = attrs.Factory(list)
    """The tensors made from this one."""


def validate_ensemble(config: ModelConfig) -> None:
    """Refuses what no models could make right, all of it: what is said here needs only the configuration of the
    ensemble. Raises InvalidArgument."""
    name, scheduling = config.name, config.ensemble_scheduling
    assert scheduling is not None, "only ensembles come here"
    if config.platform != ENSEMBLE_PLATFORM:
        raise InvalidArgument(
            f"ensemble scheduling cannot be set for model '{name}' whose platform is not {ENSEMBLE_PLATFORM}"
        )
    found: list[str] = []
    if config.instance_group:
        found.append(f"instance group should not be specified for ensemble '{name}'")
    if config.optimization is not None:
        found.append(f"optimization should not be specified for ensemble '{name}'")
    if config.model_warmup:
        found.append(f"model_warmup can not be specified for ensemble '{name}'")
    if not scheduling.step:
        found.append(f"must specify 'step' for ensemble '{name}'")
    nodes: dict[str, _Node] = {}
    steps = list(_step_faults(scheduling, name, nodes))
    found += steps
    if scheduling.step and not steps:  # else what is said of tensors would only follow from it
        found += _tensor_faults(config, nodes)
        outputs = {output.name for output in config.output}
        lost = (tensor for tensor, node in nodes.items() if tensor not in outputs and not node.ready)
        if not found:  # else that explains those, too
            found += [f"ensemble tensor '{tensor}' is unused in ensemble '{name}'" for tensor in lost]
    refuse_all(found)


def _tensor_faults(config: ModelConfig, nodes: dict[str, _Node]) -> Iterator[str]:
    name = config.name
    for tensor in config.input:
        if tensor.name not in nodes:
            # The quote that opens nowhere is the protocol's.
            yield f"ensemble input '{tensor.name}' for ensemble {name}' is not used"
    _spread(nodes, [tensor.name for tensor in config.input if tensor.name in nodes])
    outputs = {output.name for output in config.output}
    for output in config.output:
        if output.name not in nodes:
            yield f"ensemble output '{output.name}' for ensemble {name}' is not used"
        elif not nodes[output.name].ready:
            cause = _unconnected_source(nodes, output.name)
            why = f": at least one of its depending tensors, '{cause}', is not connected" if cause else ""
            yield f"output '{output.name}' for ensemble '{name}' is not written{why}"
    for tensor_name, node in nodes.items():
        if tensor_name not in outputs and not node.uses:
            yield f"ensemble tensor '{tensor_name}' is unused in ensemble '{name}'"


def _step_faults(scheduling: ModelEnsembling, name: str, nodes: dict[str, _Node]) -> Iterator[str]:
    """Fills `nodes` on the way."""
    for index, step in enumerate(scheduling.step):
        for field in ("model_name", "input_map", "output_map"):
            if not getattr(step, field):
                yield f"must specify '{field}' in step {index} of ensemble '{name}'"
        for tensor in step.output_map.values():
            node = nodes.setdefault(tensor, _Node())
            if node.written:
                yield (
                    f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' "
                    f"step {index}"
                )
            node.written = True
        for source in step.input_map.values():
            nodes.setdefault(source, _Node()).uses.extend(step.output_map.values())
            for tensor in step.output_map.values():
                nodes[tensor].sources.append(source)


def _spread(nodes: dict[str, _Node], inputs: list[str]) -> None:
    """Marks what can be computed from `inputs`."""
    for tensor in inputs:
        nodes[tensor].ready = True
    waiting = list(inputs)
    while waiting:
        for use in nodes[waiting.pop()].uses:
            node = nodes[use]
            if not node.ready and all(nodes[source].ready for source in node.sources):
                node.ready = True
                waiting.append(use)


def _unconnected_source(nodes: dict[str, _Node], output: str) -> str | None:
    """Where the way back from `output` over tensors that are not ready ends; None when it does not leave `output`."""
    seen: set[str] = set()
    last = output
    while True:
        source = next((s for s in nodes[last].sources if not nodes[s].ready and s not in seen), None)
        if source is None:
            return last if last != output else None
        seen.add(source)
        last = source
