"""One opened version of a Python model whose instances run in processes of their own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import attrs

from ....schema.config_json import config_to_json
from ....schema.fault import ExecutorDied, Internal, InvalidArgument
from ..completion import apply, arguments, is_decoupled, is_iterative
from ..model_config import ModelConfig as ConfigHelper
from .frames import ANCILLARY_BYTES, PACKET_BYTES_MAX, Codec, ancillary_of, fault_of, files_of
from .instance import IsolatedInstance
from .link import emit
from .process import ModelProcess
from .setup import Setup

if TYPE_CHECKING:
    from pathlib import Path

    from ....engine.port.backend import InstanceContext, ModelContext
    from ....schema.wire.generated.inference import ModelConfig
    from .frames import Message

START_SETTING: Final = "stub-timeout-seconds"
START_S_MAX: Final = 30.0


class IsolatedModel:
    """See port/backend.py: BackendModel."""

    asynchronous = True

    def __init__(self, context: ModelContext, file: Path) -> None:
        self._context = context
        self._file = file
        self._limits = Limits.of(context)
        self.config: ModelConfig = context.config
        if context.auto_complete:
            completed = _completed(context.name, self._setup("", {}), self._limits)
            if completed is not None:
                self.config = apply(ConfigHelper(completed), context.config)

    def open_instance(self, instance: InstanceContext) -> IsolatedInstance:
        setup = self._setup(instance.name, arguments(self._context, self.config, instance))
        limits = self._limits
        return IsolatedInstance(
            setup, limits.start_s, limits.execution_s, self._context.nested, policy=instance.host_policy
        )

    def close(self) -> None:
        """Instances own everything."""

    def _setup(self, instance_name: str, given: dict[str, str]) -> Setup:
        context = self._context
        return Setup(
            name=context.name,
            version=context.version,
            model_path=str(context.model_path),
            version_path=str(context.version_path),
            file=str(self._file),
            instance_name=instance_name,
            arguments=given,
            config=config_to_json(self.config).decode(),
            output_names=[output.name for output in self.config.output],
            decoupled=is_decoupled(self.config),
            iterative=is_iterative(self.config),
            may_ask=context.nested is not None,
            memory_bytes_max=self._limits.memory_bytes,
            log_level=logging.getLogger("despina.model").getEffectiveLevel(),
        )


@attrs.frozen(kw_only=True)
class Limits:
    """What a model's process may take, by the model's parameters; 0 for as much as it likes."""

    memory_bytes: int
    execution_s: float
    start_s: float

    @classmethod
    def of(cls, context: ModelContext) -> Limits:
        """Raises InvalidArgument for what is no number."""
        start_s = _number(context.name, START_SETTING, context.backend_config.get(START_SETTING, ""), START_S_MAX)
        return cls(
            memory_bytes=int(_parameter(context, "DESPINA_MEMORY_BYTES_MAX")),
            execution_s=_parameter(context, "DESPINA_EXECUTION_SECONDS_MAX"),
            start_s=start_s,
        )


def _parameter(context: ModelContext, name: str) -> float:
    given = context.config.parameters.get(name)
    return _number(context.name, f"parameter {name}", "" if given is None else given.string_value, 0.0)


def _number(model: str, what: str, text: str, default: float) -> float:
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise InvalidArgument(f"unable to load model '{model}': {what} must be a positive number, got '{text}'")
    return number


def _completed(name: str, setup: Setup, limits: Limits) -> str | None:
    """What the model's `auto_complete_config` makes of the configuration, as JSON, in a process that then ends."""
    process = ModelProcess()
    try:
        codec = Codec()
        try:
            process.sock.settimeout(limits.start_s)
            try:
                _expect(process, codec, name, "hello")
            except TimeoutError:
                raise ExecutorDied(f"a process for '{name}' did not start within {limits.start_s:g} s") from None
            process.sock.settimeout(None)
            packet = codec.write("complete", (attrs.asdict(setup),))
            try:
                process.sock.sendmsg([packet.data], ancillary_of(packet))
            finally:
                packet.close()
            completed: str | None = _expect(process, codec, name, "completed").fields[0]
            return completed
        finally:
            codec.close()
    finally:
        process.reap()


def _expect(process: ModelProcess, codec: Codec, name: str, kind: str) -> Message:
    """Blocks until it comes. Raises what the process says went wrong."""
    buffer = bytearray(PACKET_BYTES_MAX)
    while True:
        try:
            count, ancillary, _, _ = process.sock.recvmsg_into([buffer], ANCILLARY_BYTES)
        except ConnectionResetError:
            count = 0
        if not count:
            process.reap()
            raise Internal(f"Stub process '{name}' is not healthy: it {process.how()}")
        message = codec.read(memoryview(buffer)[:count], files_of(ancillary))
        if message.kind == kind:
            return message
        if message.kind == "failed":
            raise fault_of(message.fields)
        if message.kind != "log":
            raise Internal(f"a process for '{name}' says '{message.kind}', expected '{kind}'")
        emit(message.fields)
