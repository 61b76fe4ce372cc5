"""The models that an ensemble asks, as they serve now: found, checked, and held for as long as requests need them.

A version of an ensemble has one `Parts` at a time. When a model changes it gets another; requests under way keep the
one they began with, and with it the versions that they began with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ....schema.fault import InvalidArgument
from ....schema.tensor import Tensor
from .fit import check_cache, check_fit, check_stages, match
from .graph import Graph, writers
from .plan import plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ....schema.wire.generated.inference import ModelConfig
    from ...port.served import Served
    from .graph import Step
    from .plan import Plan

PLANS_MAX = 64
"""Choices of outputs whose plans are kept: clients choose."""
DEPTH_MAX = 32
"""Ensembles within ensembles. Ours: each is some calls deeper, and Python allows no more than a thousand."""


@attrs.frozen
class Adaptation:
    """Between a model that batches and one that does not, in either direction."""

    dims: Sequence[int]
    """Of the one that gets the tensor."""
    batches: bool
    """It batches, and the other does not."""

    def shape(self, shape: Sequence[int]) -> Sequence[int]:
        """The shape with a first dimension of 1, or without it, unless it fits as it is."""
        if self.batches:
            return (1, *shape) if match(self.dims, shape) else shape
        return shape[1:] if shape and shape[0] == 1 and not match(self.dims, shape) else shape


@attrs.frozen
class Route:
    """How a step asks its model."""

    served: Served
    inputs: Sequence[tuple[str, str, Adaptation | None]]
    """The model's input, the tensor that it gets, and how that is made to fit."""
    outputs: Sequence[str]
    """What the model is asked for."""
    tensors: Mapping[str, str]
    """The model's output -> the tensor that it becomes."""


def adapted(tensor: Tensor, name: str, adaptation: Adaptation) -> Tensor:
    """The same memory under another name and another shape: nothing is copied."""
    shape, array = adaptation.shape(tensor.shape), tensor.array
    return Tensor(name, tensor.datatype, shape, tensor.wire, None if array is None else array.reshape(shape))


class Parts:
    """See the module's text. For the trio thread."""

    def __init__(self, config: ModelConfig, find: Callable[[str, int], Served]) -> None:
        """`find` looks up what serves now. Raises what that raises, and InvalidArgument if the models do not fit."""
        self.graph = graph = Graph.of(config)
        self._of_step = [find(step.model_name, step.model_version) for step in graph.steps]
        self._decoupled = {step.index for step in graph.steps if self._of_step[step.index].decoupled}
        check_fit(config, [served.config for served in self._of_step])
        check_stages(config, self._decoupled)
        self.remembers = any(served.remembers for served in self._of_step)
        """Some of them are of sequences."""
        check_cache(config, decoupled=self.decoupled, remembers=self.remembers)
        self._writers = writers(graph.steps)
        batches = config.max_batch_size > 0
        self.routes = [self._route(step, batches) for step in graph.steps]
        self.answers = [
            (tensor.name, self._adaptation(tensor.name, tensor.dims, batches, batches)) for tensor in config.output
        ]
        """The outputs, and how they are made to fit."""
        self.depth = 1 + max(served.depth for served in self._of_step)
        if self.depth > DEPTH_MAX:
            raise InvalidArgument(f"ensemble {config.name} contains more than {DEPTH_MAX} ensembles within each other")
        self.served = tuple(dict.fromkeys(self._of_step))
        """Each once."""
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._users = 0
        self._unpin: list[Callable[[], None]] = []

    @property
    def decoupled(self) -> bool:
        """Whether there may be any number of answers to one request."""
        return bool(self._decoupled)

    def plan(self, wanted: Sequence[str]) -> Plan:
        """What these outputs need; none are all."""
        key = tuple(wanted)
        plan = self._plans.get(key)
        if plan is None:
            plan = plan_of(self.graph, self._decoupled, key)
            if len(self._plans) < PLANS_MAX:
                self._plans[key] = plan
        return plan

    def labels(self, own: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        """The outputs' labels: the ensemble's own, else those of the model that an output comes from."""
        found = dict(own)
        for name in self.graph.outputs:
            step = self._writers.get(name)
            if name not in found and step is not None:
                source = next(output for output, tensor in step.outputs if tensor == name)
                labels = self._of_step[step.index].labels.get(source)
                if labels is not None:
                    found[name] = labels
        return found

    def hold(self) -> None:
        """A request begins, or somebody pins the ensemble: the versions stay. To be followed by `release`, once."""
        if not self._users:
            self._unpin = [served.pin() for served in self.served]
        self._users += 1

    def release(self) -> None:
        """See `hold`."""
        self._users -= 1
        if not self._users:
            unpin, self._unpin = self._unpin, []
            for let_go in unpin:
                let_go()

    def _batches(self, step: Step) -> bool:
        return self._of_step[step.index].config.max_batch_size > 0

    def _adaptation(
        self, tensor: str, dims: Sequence[int], reader_batches: bool, ensemble_batches: bool
    ) -> Adaptation | None:
        step = self._writers.get(tensor)
        writer_batches = ensemble_batches if step is None else self._batches(step)
        return None if writer_batches == reader_batches else Adaptation(tuple(dims), reader_batches)

    def _route(self, step: Step, ensemble_batches: bool) -> Route:
        served = self._of_step[step.index]
        dims = {tensor.name: tensor.dims for tensor in served.config.input}
        return Route(
            served=served,
            inputs=[
                (name, tensor, self._adaptation(tensor, dims[name], self._batches(step), ensemble_batches))
                for name, tensor in step.inputs
            ],
            outputs=tuple(name for name, _ in step.outputs),
            tensors=dict(step.outputs),
        )
