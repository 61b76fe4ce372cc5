"""What bounds a model's batches besides rows, as its configuration says.

| parameter                | bound                                                                  |
|--------------------------|------------------------------------------------------------------------|
| MAX_BATCH_VOLUME_BYTES   | bytes of all inputs of the batch's requests together                   |
| DESPINA_BATCH_POLICY     | a policy of that name among the entry points `despina.batch_policies`  |

With both, both must agree.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ...schema.fault import Fault, InvalidArgument
from ...schema.shared_memory import SharedTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.metadata import EntryPoint

    from ...schema.inference import InferenceRequest
    from ...schema.wire.generated.inference import ModelConfig
    from ..port.batch_policy import BatchPolicy
    from ..request.job import Job

log = logging.getLogger("despina.engine.schedule.policies")

GROUP = "despina.batch_policies"
NAMED = "DESPINA_BATCH_POLICY"
VOLUME = "MAX_BATCH_VOLUME_BYTES"
VOLUME_MAX = 2**64 - 1


class BatchBounds:
    """The policies of one model. `begin` is called for each batch that is looked for."""

    def __init__(self, model_name: str, policies: list[BatchPolicy]) -> None:
        self._model_name = model_name
        self._policies = policies

    def begin(self) -> Callable[[Job], bool]:
        """Tells of each job, in serving order, whether it still fits. Never raises."""
        try:
            bounds = [policy.begin() for policy in self._policies]
        except (Exception, SystemExit) as error:
            self._log(error)
            return _nothing

        def include(job: Job) -> bool:
            try:
                said = [bound.include(job.request) for bound in bounds]  # each is told, whatever the others say
                return all(said)
            except (Exception, SystemExit) as error:
                self._log(error)
                return False

        return include

    def _log(self, error: BaseException) -> None:
        log.error("model '%s': its batch policy failed, the batch is closed: %r", self._model_name, error)


class VolumePolicy:
    """So many bytes of inputs at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def begin(self) -> _Volume:
        return _Volume(self._limit)


class _Volume:
    def __init__(self, limit: int) -> None:
        self._left = limit

    def include(self, request: InferenceRequest) -> bool:
        self._left -= sum(
            tensor.byte_size if isinstance(tensor, SharedTensor) else len(tensor.memory())
            for tensor in request.inputs.values()
        )
        return self._left >= 0


def batch_bounds(config: ModelConfig, installed: Iterable[EntryPoint] | None = None) -> BatchBounds | None:
    """None where rows are the only bound. Raises InvalidArgument for parameters that mean nothing, and for a policy
    that is not installed or does not load. On a thread that may wait: an entry point imports."""
    policies: list[BatchPolicy] = []
    if VOLUME in config.parameters:
        policies.append(VolumePolicy(_volume(config)))
    if NAMED in config.parameters:
        if config.dynamic_batching is None or config.max_batch_size < 2:
            raise InvalidArgument(
                f"model '{config.name}': {NAMED} bounds batches: it needs dynamic_batching and a max_batch_size above 1"
            )
        policies.append(_named(config, entry_points(group=GROUP) if installed is None else installed))
    return BatchBounds(config.name, policies) if policies else None


def _volume(config: ModelConfig) -> int:
    text = config.parameters[VOLUME].string_value
    if not text.isdecimal() or not text.isascii() or not 0 < int(text[:32]) <= VOLUME_MAX:
        raise InvalidArgument(
            f"model '{config.name}': failed to convert '{text[:64]}' to unsigned int64 for parameter {VOLUME}, which "
            "takes bytes, at least 1"
        )
    return int(text)


def _named(config: ModelConfig, installed: Iterable[EntryPoint]) -> BatchPolicy:
    name = config.parameters[NAMED].string_value
    entries = {entry.name: entry for entry in installed}
    if name not in entries:
        raise InvalidArgument(
            f"model '{config.name}': no batch policy '{name}' is installed; installed are: "
            f"{', '.join(sorted(entries)) or 'none'}"
        )
    try:
        policy: BatchPolicy = entries[name].load()(config)
    except Fault:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidArgument(
            f"model '{config.name}': batch policy '{name}' of entry point '{entries[name].value}' failed to load: "
            f"{type(error).__name__}: {error}"
        ) from error
    return policy


def _nothing(_: Job) -> bool:
    return False
