"""Which order a model's queue is served in, out of settings and the model's own parameters. Pure."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from ...schema.fault import Unavailable
from .lines import ArrivalLine, FairLine
from .standing import StandingQueue

if TYPE_CHECKING:
    from ...schema.wire.generated.inference import ModelConfig
    from ..port.settings import EngineSettings
    from ..request.job import Job
    from .lines import Line

ORDER_PARAMETER = "DESPINA_QUEUE_ORDER"
"""Model parameter: `arrival` or `adaptive`, in place of the engine's setting `queue_order`."""
FAIR_PARAMETER = "DESPINA_FAIR_QUEUEING"
"""Model parameter: the name of a request parameter, in place of the setting `fair_queueing`; empty for none."""

ORDERS = ("arrival", "adaptive")


@attrs.frozen
class QueueOrder:
    adaptive: bool = False
    """A queue that stands is served newest first until it has drained."""
    caller: str = ""
    """The request parameter that says whose a request is; callers are served by turns. Empty: whose it is makes no
    difference."""

    @property
    def is_of_arrival(self) -> bool:
        """First come, first served, whatever happens."""
        return not self.adaptive and not self.caller

    def line(self) -> Line:
        """An empty one."""
        return FairLine(partial(caller_of, self.caller)) if self.caller else ArrivalLine()

    def standing(self, patience_s: float) -> StandingQueue | None:
        return StandingQueue(patience_s) if self.adaptive else None


ARRIVAL = QueueOrder()


def order_of(config: ModelConfig, settings: EngineSettings) -> QueueOrder:
    """What the model's parameters say, else the settings. Where a configuration asks for the order of arrival, settings
    change nothing. Raises Unavailable for parameters that cannot be kept."""
    own_order = config.parameters.get(ORDER_PARAMETER)
    own_caller = config.parameters.get(FAIR_PARAMETER)
    order = settings.queue_order if own_order is None else own_order.string_value
    caller = settings.fair_queueing if own_caller is None else own_caller.string_value
    if order not in ORDERS:
        raise Unavailable(
            f"model '{config.name}', parameter '{ORDER_PARAMETER}': expected {' or '.join(ORDERS)}, got '{order}'"
        )
    batching = config.dynamic_batching
    for what, ordered in (
        ("sequence_batching", config.sequence_batching is not None),
        ("dynamic_batching.preserve_ordering", batching is not None and batching.preserve_ordering),
    ):
        if not ordered:
            continue
        for parameter, asked in (
            (ORDER_PARAMETER, own_order is not None and order != "arrival"),
            (FAIR_PARAMETER, own_caller is not None and caller),
        ):
            if asked:
                raise Unavailable(
                    f"model '{config.name}', parameter '{parameter}': '{what}' keeps the order of arrival; remove one "
                    "of the two"
                )
        return ARRIVAL
    return QueueOrder(order == "adaptive", caller)


def caller_of(parameter: str, job: Job) -> str:
    """Whose the job is. Who does not say so shares one turn with all who do not."""
    parameters = job.request.parameters
    return "" if parameters is None else str(parameters.get(parameter, ""))
