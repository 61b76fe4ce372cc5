"""The options of a server, as the C API's setters have noted them, in the words of the command line.

So there is one place that says what they mean, and the same complaints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ...schema.fault import InvalidArgument
from ..cli.command_line import read_command_line
from ..cli.settings import BadSettings, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..cli.settings import ServeSettings

Note = list[Any]
"""The setter's name, without what all have in common, and its arguments."""

_CONTROL_MODES = ("none", "poll", "explicit")
_RATE_LIMITS = ("off", "execution_count")
_LOG_FORMATS = ("default", "ISO8601")


def _plain(option: str) -> Callable[..., list[str]]:
    return lambda value: [f"--{option}={value}"]


def _switch(option: str) -> Callable[..., list[str]]:
    return lambda value: [f"--{option}={'true' if value else 'false'}"]


def _word(option: str, words: Sequence[str]) -> Callable[..., list[str]]:
    def write(number: int) -> list[str]:
        if not 0 <= number < len(words):
            raise InvalidArgument(f"{option}: there is no value {number}, only 0 to {len(words) - 1}")
        return [f"--{option}={words[number]}"]

    return write


def _named_setting(option: str) -> Callable[..., list[str]]:
    def write(name: str, setting: str, value: str) -> list[str]:
        return [f"--{option}={name + ',' if name else ''}{setting}={value}"]

    return write


def _cache(name: str, text: str) -> list[str]:
    settings = orjson.loads(text)
    if not isinstance(settings, dict):
        raise InvalidArgument(f"the configuration of cache '{name}' must be an object of JSON, got {text}")
    return [f"--cache-config={name},{key}={value}" for key, value in settings.items()]


def _resource(name: str, count: int, device: int) -> list[str]:
    return [f"--rate-limit-resource={name}:{count}" + ("" if device < 0 else f":{device}")]


def _load_limit(kind: int, device: int, fraction: float) -> list[str]:
    return [f"--model-load-gpu-limit={device}:{fraction}"]


_OPTIONS: dict[str, Callable[..., list[str]]] = {
    "SetServerId": _plain("id"),
    "SetModelRepositoryPath": _plain("model-repository"),
    "SetModelControlMode": _word("model-control-mode", _CONTROL_MODES),
    "SetStartupModel": _plain("load-model"),
    "SetStrictModelConfig": lambda strict: ["--disable-auto-complete-config"] if strict else [],
    "SetModelConfigName": _plain("model-config-name"),
    "SetRateLimiterMode": _word("rate-limit", _RATE_LIMITS),
    "AddRateLimiterResource": _resource,
    "SetPinnedMemoryPoolByteSize": _plain("pinned-memory-pool-byte-size"),
    "SetCudaMemoryPoolByteSize": lambda gpu, size: [f"--cuda-memory-pool-byte-size={gpu}:{size}"],
    "SetCudaVirtualAddressSize": lambda gpu, size: [f"--cuda-virtual-address-size={gpu}:{size}"],
    "SetResponseCacheByteSize": _plain("response-cache-byte-size"),
    "SetCacheConfig": _cache,
    "SetCacheDirectory": _plain("cache-directory"),
    "SetMinSupportedComputeCapability": _plain("min-supported-compute-capability"),
    "SetExitOnError": _switch("exit-on-error"),
    "SetStrictReadiness": _switch("strict-readiness"),
    "SetExitTimeout": _plain("exit-timeout-secs"),
    "SetBufferManagerThreadCount": _plain("buffer-manager-thread-count"),
    "SetModelLoadThreadCount": _plain("model-load-thread-count"),
    "SetModelLoadRetryCount": _plain("model-load-retry-count"),
    "SetModelNamespacing": _switch("model-namespacing"),
    "SetEnablePeerAccess": _switch("enable-peer-access"),
    "SetLogFile": _plain("log-file"),
    "SetLogInfo": _switch("log-info"),
    "SetLogWarn": _switch("log-warning"),
    "SetLogError": _switch("log-error"),
    "SetLogFormat": _word("log-format", _LOG_FORMATS),
    "SetLogVerbose": _plain("log-verbose"),
    "SetMetrics": _switch("allow-metrics"),
    "SetGpuMetrics": _switch("allow-gpu-metrics"),
    "SetCpuMetrics": _switch("allow-cpu-metrics"),
    "SetMetricsInterval": _plain("metrics-interval-ms"),
    "SetBackendDirectory": _plain("backend-directory"),
    "SetRepoAgentDirectory": _plain("repoagent-directory"),
    "SetModelLoadDeviceLimit": _load_limit,
    "SetBackendConfig": _named_setting("backend-config"),
    "SetHostPolicy": _named_setting("host-policy"),
    "SetMetricsConfig": lambda name, setting, value: [f"--metrics-config={setting}={value}"],
}
KNOWN = frozenset(_OPTIONS)

_STRICT = "SetStrictModelConfig"


def settings_of(notes: Iterable[Note]) -> ServeSettings:
    """What the server was told. Raises InvalidArgument with every complaint."""
    noted = list(notes)
    if not any(name == _STRICT for name, *_ in noted):
        noted.append([_STRICT, True])  # the C API's default, unlike the command line's
    last_strict = [given for given in noted if given[0] == _STRICT][-1]
    arguments: list[str] = []
    for name, *values in noted:
        if name != _STRICT:
            arguments += _OPTIONS[name](*values)
    arguments += _OPTIONS[_STRICT](*last_strict[1:])
    try:
        return settle(read_command_line(arguments, {}))
    except BadSettings as bad:
        raise InvalidArgument("\n".join(bad.complaints)) from bad
