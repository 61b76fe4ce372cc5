"""Whether the steps of an ensemble fit together: every tensor written once, every output reached from the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..fault import InvalidArgument
from .backend_names import ENSEMBLE_PLATFORM

if TYPE_CHECKING:
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
    """Refuses what no models could make right: what is said here needs only the configuration of the ensemble."""
    name, scheduling = config.name, config.ensemble_scheduling
    assert scheduling is not None, "only ensembles come here"
    if config.platform != ENSEMBLE_PLATFORM:
        raise InvalidArgument(
            f"ensemble scheduling cannot be set for model '{name}' whose platform is not {ENSEMBLE_PLATFORM}"
        )
    if config.instance_group:
        raise InvalidArgument(f"instance group should not be specified for ensemble '{name}'")
    if config.optimization is not None:
        raise InvalidArgument(f"optimization should not be specified for ensemble '{name}'")
    if config.model_warmup:
        raise InvalidArgument(f"model_warmup can not be specified for ensemble '{name}'")
    if not scheduling.step:
        raise InvalidArgument(f"must specify 'step' for ensemble '{name}'")
    nodes = _nodes(scheduling, name)
    for tensor in config.input:
        if tensor.name not in nodes:
            # The quote that opens nowhere is the protocol's.
            raise InvalidArgument(f"ensemble input '{tensor.name}' for ensemble {name}' is not used")
    _spread(nodes, [tensor.name for tensor in config.input])
    for output in config.output:
        if output.name not in nodes:
            raise InvalidArgument(f"ensemble output '{output.name}' for ensemble {name}' is not used")
        if not nodes[output.name].ready:
            cause = _unconnected_source(nodes, output.name)
            why = f": at least one of its depending tensors, '{cause}', is not connected" if cause else ""
            raise InvalidArgument(f"output '{output.name}' for ensemble '{name}' is not written{why}")
    outputs = {output.name for output in config.output}
    for tensor_name, node in nodes.items():
        if tensor_name not in outputs and not (node.ready and node.uses):
            raise InvalidArgument(f"ensemble tensor '{tensor_name}' is unused in ensemble '{name}'")


def _nodes(scheduling: ModelEnsembling, name: str) -> dict[str, _Node]:
    nodes: dict[str, _Node] = {}
    for index, step in enumerate(scheduling.step):
        for field in ("model_name", "input_map", "output_map"):
            if not getattr(step, field):
                raise InvalidArgument(f"must specify '{field}' in step {index} of ensemble '{name}'")
        for tensor in step.output_map.values():
            node = nodes.setdefault(tensor, _Node())
            if node.written:
                raise InvalidArgument(
                    f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' "
                    f"step {index}"
                )
            node.written = True
        for source in step.input_map.values():
            nodes.setdefault(source, _Node()).uses.extend(step.output_map.values())
            for tensor in step.output_map.values():
                nodes[tensor].sources.append(source)
    return nodes


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
