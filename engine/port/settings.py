"""What an engine can be told. Names are the command line's, with underscores; defaults stand beside the fields."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import attrs

from .host_policy import SETTINGS
from .resources import ResourceLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TraceMode = Literal["triton", "opentelemetry"]
TraceLevel = Literal["TIMESTAMPS", "TENSORS"]
TraceField = Literal["level", "rate", "count", "log_frequency"]
"""What of it may change while the server runs."""
TraceChanges = dict[TraceField, Any]
"""New values by field; None takes the field back to what it follows."""
LEVELS: tuple[TraceLevel, ...] = ("TIMESTAMPS", "TENSORS")
ModelControlMode = Literal["none", "poll", "explicit"]
RateLimit = Literal["off", "execution_count"]
QueueWhileDown = Literal["keep", "refuse"]
QueueOrder = Literal["arrival", "adaptive"]


def _strings(value: str | Iterable[str]) -> tuple[str, ...]:
    """One path or name, or several."""
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def _one_of(*words: str) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """A validator whose complaint is one sentence (attrs' own one is a tuple with all that it knows of the field)."""

    def check(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in words:
            near = difflib.get_close_matches(str(value), words, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"'{attribute.name}' must be one of {', '.join(words)}, got {value!r}{hint}")

    return check


_PLAIN: Mapping[str, tuple[type, str]] = {
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a string"),
    "Mapping[str, Mapping[str, str]]": (Mapping, "a mapping of names to mappings"),
}
"""By annotation: what a value must be an instance of, and how a complaint calls it."""


def _plain_values_are_what_they_say(_owner: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Has every field of a plain type checked before its other validators, which compare and would fail in riddles."""

    def check(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        kind, words = _PLAIN[str(attribute.type)]
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise TypeError(f"'{attribute.name}' must be {words}, got {value!r}")

    return [
        field.evolve(validator=attrs.validators.and_(check, *filter(None, [field.validator])))
        if str(field.type) in _PLAIN  # annotations are strings here
        else field
        for field in fields
    ]


_NOT_NEGATIVE = attrs.validators.ge(0)
_POSITIVE = attrs.validators.ge(1)


def _as_limits(limits: Iterable[ResourceLimit]) -> tuple[ResourceLimit, ...]:
    return tuple(limits)


def _as_levels(levels: Iterable[TraceLevel]) -> tuple[TraceLevel, ...]:
    return tuple(levels)


def _known_host_settings(instance: object, attribute: object, policies: Mapping[str, Mapping[str, str]]) -> None:
    unknown = [name for settings in policies.values() for name in settings if name not in SETTINGS]
    if unknown:
        raise ValueError(
            f"Unsupported host policy setting '{unknown[0]}' is specified, supported settings are "
            + ", ".join(f"'{name}'" for name in SETTINGS)
        )


@attrs.frozen(kw_only=True, field_transformer=_plain_values_are_what_they_say)
class TraceSettings:
    """Tracing as the server starts. Nothing is traced until a level is set."""

    mode: TraceMode = attrs.field(default="triton", validator=_one_of("triton", "opentelemetry"))
    """Files of the server's own format, or spans for an OpenTelemetry collector."""
    level: tuple[TraceLevel, ...] = attrs.field(
        default=(), converter=_as_levels, validator=attrs.validators.deep_iterable(_one_of(*LEVELS))
    )
    """Time stamps, tensors, both, or nothing: off."""
    rate: int = attrs.field(default=1000, validator=attrs.validators.ge(0))
    """Every so many-th request is traced. With 0, in OpenTelemetry mode, only those that bring a trace context."""
    count: int = attrs.field(default=-1, validator=attrs.validators.ge(-1))
    """How many traces are taken; -1 for no end."""
    log_frequency: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    """Traces per numbered file `<file>.<n>`; 0 puts all into `file` when tracing changes or ends."""
    file: str = ""
    options: Mapping[str, str] = attrs.field(factory=dict)
    """Of OpenTelemetry mode: `url`, `bsp_max_queue_size` and so on, as settings show them."""
    resource: Mapping[str, str] = attrs.field(factory=dict)
    """Of OpenTelemetry mode: attributes of the process that spans come from."""


@attrs.frozen(kw_only=True, field_transformer=_plain_values_are_what_they_say)
class LatencySettings:
    """Which distributions are kept."""

    summaries: bool = False
    """Request, queue and the three compute latencies of every model."""
    histograms: bool = False
    """The whole request, of every model; the time to the first response, of decoupled ones."""


@attrs.frozen
class Stop:
    """It stays down. A model without any instance left is taken out of service."""


@attrs.frozen(kw_only=True, field_transformer=_plain_values_are_what_they_say)
class Restart:
    """It is opened anew after a while, which doubles with each death in a row."""

    limit: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    """Deaths within `window_s`, after which it stays down."""
    window_s: float = attrs.field(default=600.0, validator=attrs.validators.gt(0))
    backoff_min_s: float = attrs.field(default=0.1, validator=attrs.validators.ge(0))
    backoff_max_s: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    jitter: float = attrs.field(default=0.2, validator=[attrs.validators.ge(0), attrs.validators.le(1)])
    """Of the time to wait, at most so much more or less."""


Strategy = Stop | Restart


@attrs.frozen(kw_only=True, field_transformer=_plain_values_are_what_they_say)
class EngineSettings:
    """Engine options. Raises ValueError or TypeError for a value that cannot work; never changes after start."""

    model_repository: tuple[str, ...] = attrs.field(converter=_strings)
    """Directories whose sub-directories are models."""
    id: str = "triton"
    """The server's name in its metadata."""
    model_namespacing: bool = False
    """Let repositories have models of the same name: then a name alone means the only one of that name."""
    model_control_mode: ModelControlMode = attrs.field(default="none", validator=_one_of("none", "poll", "explicit"))
    load_model: tuple[str, ...] = attrs.field(default=(), converter=_strings)
    """Models to load at start in explicit mode; `*` alone means all."""

    @load_model.validator
    def _only_by_command(self, attribute: object, names: tuple[str, ...]) -> None:
        if names and self.model_control_mode != "explicit":
            raise ValueError("Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.")

    load_on_request: bool = attrs.field(default=False)
    """Explicit mode: load a model when somebody asks for it who wants to use it. Ours."""
    loaded_models_max: int = attrs.field(default=0, validator=_NOT_NEGATIVE)
    """With `load_on_request`: models loaded at one time; for one more, one that nobody uses is evicted. 0 for no bound.
    Ours."""
    loaded_bytes_max: int = attrs.field(default=0, validator=_NOT_NEGATIVE)
    """The same in bytes: those of the files of a model's versions, or what its parameter says. Ours."""
    load_wait_secs: float = attrs.field(default=60, validator=_NOT_NEGATIVE)
    """How long a request waits for its model to load, and a model for room. Ours."""

    @load_on_request.validator
    def _only_what_is_not_loaded(self, attribute: object, asked: bool) -> None:
        if asked and self.model_control_mode != "explicit":
            raise ValueError(
                "Error: Use of '--load-on-request' requires setting '--model-control-mode=explicit' as well."
            )
        if asked and self.model_namespacing:
            raise ValueError("Error: '--load-on-request' cannot be used with '--model-namespacing'.")

    @loaded_models_max.validator
    @loaded_bytes_max.validator
    def _only_what_comes_back(self, attribute: attrs.Attribute[int], bound: int) -> None:
        if bound and not self.load_on_request:
            option = attribute.name.replace("_", "-")
            raise ValueError(f"Error: Use of '--{option}' requires setting '--load-on-request' as well.")

    repository_poll_secs: float = attrs.field(default=15, validator=_NOT_NEGATIVE)
    """Seconds between looks at the repository in poll mode; 0 looks never."""
    exit_on_error: bool = True
    """Refuse to start when a model of the start-up set does not load."""
    strict_readiness: bool = True
    """Ready only while every known model is; else ready as soon as the engine runs."""
    disable_auto_complete_config: bool = False
    """Take each config.pbtxt as complete."""
    model_config_name: str = ""
    """Prefer `configs/<name>.pbtxt` over `config.pbtxt`."""
    model_load_thread_count: int = attrs.field(default=4, validator=_POSITIVE)
    model_load_timeout_secs: float = attrs.field(default=0, validator=_NOT_NEGATIVE)
    """How long a model may take to be fetched and read, then to open, and then its instances, before the load fails; 0
    sets no limit. Ours."""
    model_load_retry_count: int = attrs.field(default=0, validator=_NOT_NEGATIVE)
    exit_timeout_secs: float = attrs.field(default=30, validator=_NOT_NEGATIVE)
    """How long `stop` waits for what is in flight, and whoever cancels the engine for what is being opened."""
    backend_config: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    """`{backend: {key: value}}`; the backend "" stands for all."""
    debug_model: str = ""
    """The Python model that somebody looks into at this program's terminal: its process, too, reads what is typed
    there, and has no time limits. Ours."""
    backend_directory: str = ""
    """Where backends are that are no packages: `<backend_directory>/<name>/libtriton_<name>.so`, or `model.py` for
    those in Python. Empty: libraries are looked for in /opt/tritonserver/backends, as by the reference server."""
    rate_limit: RateLimit = attrs.field(default="off", validator=_one_of("off", "execution_count"))
    """Whether instances need resources to execute, as their models say, and which are next; else they just execute."""
    rate_limit_resource: tuple[ResourceLimit, ...] = attrs.field(
        default=(),
        converter=_as_limits,
        validator=attrs.validators.deep_iterable(attrs.validators.instance_of(ResourceLimit)),
    )
    """How much there is of resources. Without any, as much of each as one instance needs at most."""
    host_policy: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict, validator=_known_host_settings)
    """`{policy: {setting: value}}`: where instances live that name the policy, or are of the kind that it is named
    after: `cpu`, `gpu_<id>`, `model`. Settings: `numa-node`, `cpu-cores` (`first-last`)."""
    min_supported_compute_capability: float = 6.0
    repoagent_directory: str = "/opt/tritonserver/repoagents"
    """The same of repository agents: `<directory>/<name>/libtritonrepoagent_<name>.so`."""
    cache_directory: str = "/opt/tritonserver/caches"
    """The same of response caches: `<directory>/<name>/libtritoncache_<name>.so`."""
    cache_config: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    """`{cache: {key: value}}`: where answers are kept of models that ask for it. One cache at most."""

    @cache_config.validator
    def _only_one(self, attribute: object, config: Mapping[str, Mapping[str, str]]) -> None:
        if len(config) > 1:
            raise ValueError("found multiple cache configurations, but only a single cache is currently supported")

    response_cache_byte_size: int = attrs.field(default=0, validator=_NOT_NEGATIVE)
    """Deprecated: the same as the cache `local` of that `size`; 0 for none."""

    @response_cache_byte_size.validator
    def _instead(self, attribute: object, size: int) -> None:
        if size and self.cache_config:
            raise ValueError(
                "Error: Incompatible flags --response-cache-byte-size and --cache-config both provided. Please provide "
                "one or the other."
            )

    cache_joins: bool = False
    """Requests of such a model wait for an equal one's execution, and share its answer. Ours."""
    allow_client_shm: bool = True
    """Let clients register regions of shared memory."""
    shared_memory_regions_max: int = attrs.field(default=1024, validator=_POSITIVE)
    """Regions registered at one time. Ours: each is an open file."""
    shared_memory_input_bytes_max: int = attrs.field(default=2**31 - 1, validator=_POSITIVE)
    """Bytes of one input in shared memory. Ours: objects may be larger than the machine's memory."""
    queue_size_max: int = attrs.field(default=100_000, validator=_POSITIVE)
    """Bound on every model's queue, whatever its own policy says. Ours: the protocol's default is no bound."""
    stream_responses_max: int = attrs.field(default=64, validator=_POSITIVE)
    """Answers of one stream that its caller has not consumed, before the model must wait. Ours: see queue_size_max."""
    restart: Strategy = attrs.field(factory=Restart, validator=attrs.validators.instance_of((Stop, Restart)))
    """What happens to an instance whose executor has died. Ours."""
    queue_while_down: QueueWhileDown = attrs.field(default="keep", validator=_one_of("keep", "refuse"))
    """What a model without any instance does with requests: keep them for the next one, or refuse them. Ours."""
    queue_order: QueueOrder = attrs.field(default="arrival", validator=_one_of("arrival", "adaptive"))
    """First come, first served; or, `adaptive`, newest first while a queue stands: where callers leave after a while
    without having said when, who came last is the one who is still there. Ours."""
    fair_queueing: str = ""
    """The request parameter that says whose a request is: callers are served by turns, whatever one of them sends. A
    header that is forwarded is such a parameter. Empty: whose it is makes no difference. Ours."""
    trace: TraceSettings = attrs.field(factory=TraceSettings, validator=attrs.validators.instance_of(TraceSettings))
    """Which requests are traced at first, and where to."""
    latencies: LatencySettings = attrs.field(
        factory=LatencySettings, validator=attrs.validators.instance_of(LatencySettings)
    )
    """Distributions of latencies kept for each model; none at first."""

    def cache(self) -> Mapping[str, Mapping[str, str]]:
        """`cache_config` in either form."""
        if self.response_cache_byte_size:
            return {"local": {"size": str(self.response_cache_byte_size)}}
        return self.cache_config
