"""The RPC of the trace extension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....schema.fault import InvalidArgument
from ....schema.wire.generated import inference as pb
from ...trace_changes import NUMBERS, levels_of, number_of, refuse_file

if TYPE_CHECKING:
    from ....engine.port.settings import TraceChanges


class TraceService(pb.GrpcInferenceServiceBase):
    """What is traced, for all models or one. Raises the Fault that the client gets."""

    _engine: Any

    async def trace_setting(self, message: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        """A setting without values goes back to what it follows; unknown ones are ignored."""
        self._engine.tracer.check_model(message.model_name)
        wanted = message.settings
        changes: TraceChanges = {}
        if "trace_file" in wanted:
            raise refuse_file()
        if "trace_level" in wanted:
            changes["level"] = levels_of(wanted["trace_level"].value) if wanted["trace_level"].value else None
        for name, field in NUMBERS.items():
            if name in wanted:
                values = wanted[name].value
                if len(values) > 1:
                    raise InvalidArgument(f"expect only 1 value for '{name}'")
                changes[field] = number_of(name, values[0], separator=" ") if values else None
        self._engine.tracer.change(changes, message.model_name)
        return pb.TraceSettingResponse(
            settings={
                name: pb.TraceSettingResponseSettingValue(value=list(values))
                for name, values in self._engine.tracer.shown(message.model_name).items()
            }
        )
