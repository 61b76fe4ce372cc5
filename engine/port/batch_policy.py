"""The port of policies that bound a batch by something other than its rows.

    [project.entry-points."despina.batch_policies"]
    tokens = "my_package:TokenPolicy"             the model's parameter DESPINA_BATCH_POLICY is then "tokens"

A policy is made once for each version that is loaded: the entry is called with the model's configuration, and may raise
InvalidArgument, which is the load error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ...schema.inference import InferenceRequest


class BatchBound(Protocol):
    """What one batch may hold."""

    def include(self, request: InferenceRequest) -> bool:
        """Whether the request still fits; False closes the batch before it. Told of each in serving order. The first
        is in the batch whatever is said of it: there is no smaller one.

        Called by the thread that will execute, while nothing else can be taken or queued: it must be quick. What it
        raises is logged and means False.
        """
        ...


class BatchPolicy(Protocol):
    def begin(self) -> BatchBound:
        """A batch is looked for: what waits is looked at from the front. What then waits on for company is looked at
        again, with another bound."""
        ...
