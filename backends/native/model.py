"""Models and instances of a library, in the process that has loaded it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import orjson

from ...native.servers import server_of
from ...schema.config.sequence_tensors import state_outputs
from ...schema.config_json import config_to_json
from ...schema.model_config import config_from_json
from .faults import check
from .finding import DEFAULT_DIRECTORY, DIRECTORY_SETTING
from .instance import NativeInstance
from .shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext
    from ...native.extension_port import Extension
    from ...schema.wire.generated.inference import ModelConfig

KINDS: Final[Mapping[InstanceKind, int]] = {"CPU": 1, "GPU": 2, "MODEL": 3}


class NativeModel:
    """One opened version."""

    def __init__(self, native: Extension, backend: str, library: Path, context: ModelContext) -> None:
        self._native = native
        self._engine = context.nested
        """It goes after its models: the library may ask it until then."""
        address, outcome = native.model_open(
            str(library),
            backend,
            str(library.parent),
            _command_line(context),
            context.name,
            context.version,
            str(context.model_path),
            config_to_json(context.config).decode(),
            context.auto_complete,
            server_of(native, self._engine),
        )
        check(outcome)
        assert address is not None, "a model that has opened is somewhere"
        self._address = address
        self._lock = threading.Lock()
        self._open_instances = 0
        self._is_closing = False
        try:
            text, self.preferred_kind, self._says_ready = native.model_facts(address)
            self.config: ModelConfig = config_from_json(text)
            self._settle(self.config)
        except BaseException:
            native.model_close(address)
            raise

    def _settle(self, config: ModelConfig) -> None:
        policy = config.model_transaction_policy
        self._decoupled = policy is not None and policy.decoupled
        self._native.model_settle(
            self._address,
            config_to_json(config).decode(),
            self._decoupled,
            [output.name for output in config.output],
            [output.name for output in state_outputs(config)],
        )
        self._shapes = Shapes(config)

    def open_instance(self, instance: InstanceContext) -> NativeInstance:
        address, outcome = self._native.instance_open(
            self._address, instance.name, KINDS[instance.kind], instance.device_id, _policy(instance)
        )
        check(outcome)
        assert address is not None, "an instance that has opened is somewhere"
        with self._lock:
            self._open_instances += 1
        return NativeInstance(
            self._native,
            address,
            instance.name,
            self._shapes,
            decoupled=self._decoupled,
            says_ready=self._says_ready,
            on_close=self._instance_closed,
        )

    def close(self) -> None:
        """Finalizes it, once all instances have been closed: one that was given up has it until it returns."""
        with self._lock:
            self._is_closing = True
        self._close_unused()

    def _instance_closed(self) -> None:
        with self._lock:
            self._open_instances -= 1
        self._close_unused()

    def _close_unused(self) -> None:
        with self._lock:
            if not self._is_closing or self._open_instances:
                return
            self._is_closing = False
        self._native.model_close(self._address)


def _command_line(context: ModelContext) -> str:
    """What `--backend-config` says, as backends read it."""
    settings: dict[str, Any] = {
        DIRECTORY_SETTING: DEFAULT_DIRECTORY,
        "min-compute-capability": "6.000000",
        **context.backend_config,
    }
    return orjson.dumps({"cmdline": settings}).decode()


def _policy(instance: InstanceContext) -> str:
    policy = instance.host_policy
    said = {"numa-node": policy.numa_node, "cpu-cores": policy.cpu_cores}
    return orjson.dumps({policy.name: {name: value for name, value in said.items() if value}}).decode()
