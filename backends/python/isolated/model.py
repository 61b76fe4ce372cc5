"""One opened version of a Python model whose instances run in processes of their own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import attrs

from ....engine.port.buffers import BufferPool
from ....schema.config_json import config_to_json
from ....schema.fault import ExecutorDied, Internal
from ..completion import apply, arguments, is_decoupled, is_iterative
from ..model_config import ModelConfig as ConfigHelper
from .frames import ANCILLARY_BYTES, PACKET_BYTES_MAX, Codec, ancillary_of, fault_of, files_of
from .instance import IsolatedInstance
from .limits import Limits, is_debugged
from .link import emit
from .process import ModelProcess, Program
from .setup import Setup
from .shared_buffers import SharedBuffer, SharedBuffers

if TYPE_CHECKING:
    from ....engine.port.backend import InstanceContext, ModelContext
    from ....schema.wire.generated.inference import ModelConfig
    from ..environments import Environment
    from ..source import Source
    from .frames import Message

BUFFER_BYTES_MAX: Final = 1 << 30
"""Of buffers for requests that are kept for later ones; who receives them frees what is not needed."""


class IsolatedModel:
    """See port/backend.py: BackendModel."""

    asynchronous = True

    def __init__(self, context: ModelContext, source: Source, environment: Environment | None) -> None:
        """`environment` is the model's own, to be closed with it."""
        self._context = context
        self._source = source
        self._environment = environment
        self._program = _program(context, environment)
        self._limits = Limits.of(context)
        self.config: ModelConfig = context.config
        if context.auto_complete:
            (completed,) = completed_by(self._setup("", {}), self._limits, self._program)
            if completed is not None:
                self.config = apply(ConfigHelper(completed), context.config)
        self.buffers: BufferPool | None = None
        """None where the model would find again what it has written, or has no address space to see them all."""
        if not is_iterative(self.config) and not self._limits.memory_bytes:
            self.buffers = BufferPool(BUFFER_BYTES_MAX, SharedBuffers(), SharedBuffer)

    def open_instance(self, instance: InstanceContext) -> IsolatedInstance:
        setup = self._setup(instance.name, arguments(self._context, self.config, instance))
        limits = self._limits
        return IsolatedInstance(
            setup,
            limits,
            self._context.nested,
            policy=instance.host_policy,
            program=self._program,
        )

    def close(self) -> None:
        """Instances own everything else."""
        if self._environment is not None:
            self._environment.close()

    def _setup(self, instance_name: str, given: dict[str, str]) -> Setup:
        context = self._context
        return Setup(
            name=context.name,
            version=context.version,
            folders=self._source.folders,
            file=str(self._source.file),
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


def _program(context: ModelContext, environment: Environment | None) -> Program | None:
    at_terminal = is_debugged(context)
    if environment is not None:
        return Program(python=environment.python, variables=environment.variables, at_terminal=at_terminal)
    return Program(at_terminal=True) if at_terminal else None


def completed_by(setup: Setup, limits: Limits, program: Program | None) -> tuple[Any, ...]:
    """What a process says that completes the configuration, and then ends: of a model.py what its
    `auto_complete_config` makes of it, as JSON, or None; of a library what `complete` in native/child.py gives."""
    name = setup.name
    process = ModelProcess(program)
    try:
        codec = Codec()
        try:
            process.sock.settimeout(limits.start_s or None)
            try:
                _expect(process, codec, setup, "hello")
            except TimeoutError:
                raise ExecutorDied(f"a process for '{name}' did not start within {limits.start_s:g} s") from None
            process.sock.settimeout(limits.open_s or None)
            packet = codec.write("complete", (attrs.asdict(setup),))
            try:
                process.sock.sendmsg([packet.data], ancillary_of(packet))
            finally:
                packet.close()
            try:
                completed = _expect(process, codec, setup, "completed").fields
            except TimeoutError:
                raise ExecutorDied(f"auto_complete_config of '{name}' did not end within {limits.open_s:g} s") from None
            return completed
        finally:
            codec.close()
    finally:
        process.reap()


def _expect(process: ModelProcess, codec: Codec, setup: Setup, kind: str) -> Message:
    """Blocks until it comes. Raises what the process says went wrong."""
    buffer = bytearray(PACKET_BYTES_MAX)
    while True:
        try:
            count, ancillary, _, _ = process.sock.recvmsg_into([buffer], ANCILLARY_BYTES)
        except ConnectionResetError:
            count = 0
        if not count:
            process.reap()
            raise Internal(f"{setup.title} is not healthy: it {process.how()}")
        message = codec.read(memoryview(buffer)[:count], files_of(ancillary))
        if message.kind == kind:
            return message
        if message.kind == "failed":
            raise fault_of(message.fields)
        if message.kind != "log":
            raise Internal(f"a process for '{setup.name}' says '{message.kind}', expected '{kind}'")
        emit(message.fields, setup.name)
