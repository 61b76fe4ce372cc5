"""The tensors that tell a model about the sequence a request is of: START, END, READY, CORRID. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...schema.config.sequence_tensors import control_type
from ...schema.datatype import BY_NUMBER
from ...schema.tensor import Tensor, encode_bytes
from ...schema.wire.generated.inference import ModelSequenceBatchingControlKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...schema.wire.generated.inference import ModelConfig, ModelSequenceBatchingControl
    from .slots import SequenceId

_Kind = ModelSequenceBatchingControlKind


class Controls:
    """Of one model: made once, but for the correlation ids."""

    def __init__(self, config: ModelConfig) -> None:
        batching = config.sequence_batching
        assert batching is not None, "a sequence model"
        self._shape = (1, 1) if config.max_batch_size > 0 else (1,)
        self._flags: dict[int, tuple[str, Tensor, Tensor]] = {}
        """Kind -> name, the tensor for false, the one for true."""
        self._told: dict[tuple[bool, bool, bool], Mapping[str, Tensor]] = {}
        """START, END, READY -> all that is said by flags."""
        self._id: tuple[str, str] | None = None
        """Name and datatype of the correlation id's tensor."""
        for tensor in batching.control_input:
            for control in tensor.control:
                if control.kind == _Kind.CONTROL_SEQUENCE_CORRID:
                    self._id = tensor.name, BY_NUMBER[int(control_type(control))].name
                else:
                    false, true = self._pair(tensor.name, control)
                    self._flags[int(control.kind)] = tensor.name, false, true

    @property
    def id_datatype(self) -> str:
        """Of the correlation id's tensor; empty if the model wants none."""
        return "" if self._id is None else self._id[1]

    def of(self, id: SequenceId, *, start: bool, end: bool, ready: bool) -> Mapping[str, Tensor]:
        """By name, for one request. Not to be changed: others may be given the same."""
        flags = self._told.get((start, end, ready))
        if flags is None:
            wanted = {
                _Kind.CONTROL_SEQUENCE_START: start,
                _Kind.CONTROL_SEQUENCE_END: end,
                _Kind.CONTROL_SEQUENCE_READY: ready,
            }
            flags = {name: true if wanted[_Kind(kind)] else false for kind, (name, false, true) in self._flags.items()}
            self._told[start, end, ready] = flags
        if self._id is None:
            return flags
        name, datatype = self._id
        return {**flags, name: Tensor(name, datatype, self._shape, _id_bytes(id, datatype))}

    def _pair(self, name: str, control: ModelSequenceBatchingControl) -> tuple[Tensor, ...]:
        kind = BY_NUMBER[int(control_type(control))]
        false, true = control.int32_false_true or control.fp32_false_true or control.bool_false_true
        return tuple(
            Tensor(name, kind.name, self._shape, np.array([value], kind.dtype).tobytes()) for value in (false, true)
        )


def _id_bytes(id: SequenceId, datatype: str) -> bytes:
    """Numbers are cut to the low-order bytes of the tensor's datatype, as the protocol's are."""
    if datatype == "BYTES":
        return encode_bytes([(id if isinstance(id, str) else "").encode()])
    number = id if isinstance(id, int) else 0
    return (number % 2**64).to_bytes(8, "little")[: 4 if datatype in ("INT32", "UINT32") else 8]
