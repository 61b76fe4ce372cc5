"""The table of every option that `despina serve` knows: tritonserver's names, and our own for what it lacks.

Nothing here says a default: those stand beside the fields that the targets name.
"""

from __future__ import annotations

from typing import Any

from ..log_settings import model_level
from .cloud_options import SAGEMAKER, VERTEX_AI
from .option import (
    Option,
    backend_setting,
    boolean,
    cache_setting,
    choice,
    host_setting,
    integer,
    metric_setting,
    number,
    port,
    positive,
    regular_expression,
    resource_limit,
    string,
    verbosity,
)
from .single_model import model_name
from .socket_access import socket_mode, socket_owner
from .trace_options import trace_setting


def _tuning(name: str, parse: Any, what: str, *, repeat: bool = False) -> Option:
    return Option(name, parse, text=f"Accepted without effect: {what}.", repeat=repeat, fate="no effect")


def _absent(name: str, parse: Any, what: str, default: str = "", *, repeat: bool = False) -> Option:
    return Option(name, parse, text=f"Not built yet: {what}.", repeat=repeat, fate="not built", default=default)


def _tls_options(door: str, *, ours: bool = False) -> list[Option]:
    part = f"{door}_tls"

    def said(text: str) -> str:
        return f"Ours: {text[0].lower()}{text[1:]}" if ours else text

    return [
        Option(f"{door}-use-ssl", boolean, f"{part}.use", said("Speak TLS on this door.")),
        Option(
            f"{door}-use-ssl-mutual",
            boolean,
            f"{part}.mutual",
            said("The same, and let in only clients with a certificate of the root certificate."),
        ),
        Option(f"{door}-server-cert", string, f"{part}.server_cert", said("The server's certificate chain, PEM.")),
        Option(f"{door}-server-key", string, f"{part}.server_key", said("Its key, PEM, without a passphrase.")),
        Option(f"{door}-root-cert", string, f"{part}.root_cert", said("The authority of clients' certificates, PEM.")),
    ]


_SERVER = [
    Option("id", string, "engine.id", "The server's name in its metadata."),
    Option("exit-timeout-secs", number, "engine.exit_timeout_secs", "How long stopping waits for what is in flight."),
    Option(
        "unix-socket-mode",
        socket_mode,
        "doors.unix_socket_mode",
        "Ours: the mode of the files of doors at unix:<path>, in octal, such as 660.",
    ),
    Option(
        "unix-socket-owner",
        socket_owner,
        "doors.unix_socket_owner",
        "Ours: their owner: USER, USER:GROUP or :GROUP.",
    ),
    Option(
        "lame-duck-secs",
        number,
        "doors.lame_duck_secs",
        "Ours: how long a server that was told to stop says that it is not ready, and serves, before its doors close.",
    ),
    Option(
        "config",
        string,
        text="Ours: a TOML file with options of these names; the command line and DESPINA_* win over it.",
    ),
]
_REPOSITORY = [
    Option(
        "model-repository",
        string,
        "engine.model_repository",
        "A directory of models, or s3://, gs://, as://bucket/folder. Needed; may be given several times.",
        repeat=True,
    ),
    Option("model-store", string, "engine.model_repository", "The same as --model-repository.", repeat=True),
    Option(
        "single-model",
        model_name,
        "single_model.name",
        "Ours: where the repository is itself a model's directory, or a version's files, serve it under this name, or "
        "the one in its config.pbtxt.",
    ),
    Option(
        "exit-on-error", boolean, "engine.exit_on_error", "Do not start when a model of the start-up set does not load."
    ),
    Option(
        "disable-auto-complete-config",
        boolean,
        "engine.disable_auto_complete_config",
        "Take each config.pbtxt as complete.",
        flag=True,
    ),
    Option(
        "strict-model-config",
        boolean,
        "engine.disable_auto_complete_config",
        "Deprecated: the same as --disable-auto-complete-config when true.",
    ),
    Option(
        "strict-readiness",
        boolean,
        "engine.strict_readiness",
        "Ready only while every known model is; else as soon as the server runs.",
    ),
    Option(
        "model-control-mode",
        choice("model-control-mode", "none", "poll", "explicit"),
        "engine.model_control_mode",
        "Load everything once (none), follow the directories (poll), or load by command only (explicit).",
    ),
    Option("repository-poll-secs", number, "engine.repository_poll_secs", "Poll mode: seconds between two looks."),
    Option(
        "load-model",
        string,
        "engine.load_model",
        "Explicit mode: load this model at start; '*' alone loads all. May be given several times.",
        repeat=True,
    ),
    Option(
        "load-on-request",
        boolean,
        "engine.load_on_request",
        "Ours: explicit mode: load a model when the first request for it comes.",
    ),
    Option(
        "loaded-models-max",
        integer,
        "engine.loaded_models_max",
        "Ours: with load-on-request: evict what nobody uses when more models than these would be loaded; 0 never does.",
    ),
    Option(
        "loaded-bytes-max",
        integer,
        "engine.loaded_bytes_max",
        "Ours: the same in bytes, of the files of the models' versions or what their DESPINA_LOADED_BYTES say.",
    ),
    Option(
        "load-wait-secs",
        number,
        "engine.load_wait_secs",
        "Ours: how long a request waits for its model to load, and a model for room.",
    ),
    Option(
        "model-config-name",
        string,
        "engine.model_config_name",
        "Prefer configs/<name>.pbtxt over config.pbtxt in each model.",
    ),
    Option("model-load-thread-count", positive, "engine.model_load_thread_count", "Models loaded at the same time."),
    Option("model-load-retry-count", integer, "engine.model_load_retry_count", "Further tries for a failed load."),
    Option(
        "model-load-timeout-secs",
        number,
        "engine.model_load_timeout_secs",
        "Ours: give up a model that takes longer to open, or its instances; 0 never does.",
    ),
    Option("queue-size-max", positive, "engine.queue_size_max", "Ours: bound on each model's queue, in requests."),
    Option(
        "queue-order",
        choice("queue-order", "arrival", "adaptive"),
        "engine.queue_order",
        "Ours: adaptive: while a queue is so long that everybody waits, it is served newest first, for callers that "
        "just leave.",
    ),
    Option(
        "fair-queueing",
        string,
        "engine.fair_queueing",
        "Ours: serve callers by turns, told apart by the request parameter, or forwarded header, of this name.",
    ),
    Option(
        "model-namespacing",
        boolean,
        "engine.model_namespacing",
        "Let several repositories have models of one name; clients reach those whose name only one loaded model has, "
        "ensembles those of their own repository first.",
    ),
]
_HTTP = [
    Option("allow-http", boolean, "doors.allow_http", "Open the HTTP door."),
    Option("http-address", string, "doors.http_address", "Address to listen on; IPv6 and unix:<path> work too."),
    Option("http-port", port, "doors.http_port", "Port to listen on; 0 takes any free one and logs it."),
    Option("reuse-http-port", boolean, "doors.reuse_http_port", "Let several servers share the port (SO_REUSEPORT)."),
    Option(
        "http-server",
        choice("http-server", "trio", "hypercorn"),
        "doors.http_server",
        "Ours: which program speaks HTTP: our own listener, or hypercorn for HTTP/2 and middleware.",
    ),
    Option(
        "http-max-input-size",
        positive,
        "http.json_bytes_max",
        "Bytes of JSON in one inference request; binary tensors do not count.",
    ),
    Option(
        "http-restricted-api",
        string,
        "http.restricted",
        "<apis>:<header>=<value>: these APIs (a comma list) ask for this header. May be given several times.",
        repeat=True,
    ),
    Option("http-connection-count-max", positive, "http.connection_count_max", "Ours: connections at one time."),
    Option(
        "http-probe-count-max", integer, "http.probe_count_max", "Ours: more of them, for questions for health only."
    ),
    Option("http-body-bytes-max", positive, "http.body_bytes_max", "Ours: bytes of one request's body."),
    Option("http-head-timeout", number, "http.head_timeout", "Ours: seconds for the headers of a request to arrive."),
    Option("http-body-stall-timeout", number, "http.body_stall_timeout", "Ours: seconds between two pieces of a body."),
    Option("http-recycled-idle", number, "http.recycled_idle", "Ours: seconds until unused memory of bodies is freed."),
    Option(
        "http-body-rate-min", integer, "http.body_rate_min", "Ours: bytes of a body a second; slower ones are refused."
    ),
    Option("http-idle-timeout", number, "http.idle_timeout", "Ours: seconds until an idle connection is closed."),
    Option("http-write-stall-timeout", number, "http.write_stall_timeout", "Ours: seconds a client may not read."),
    Option(
        "http-health-bodies",
        boolean,
        "http.health_bodies",
        "Ours: say live and ready in JSON, too, for clients that read it, such as KServe's.",
    ),
    Option("http-stop-grace", number, "http.stop_grace", "Ours: seconds that half a request has left at the end."),
    Option(
        "http-header-forward-pattern",
        regular_expression,
        "http.forward_pattern",
        "Headers whose name this finds, in any case, become parameters of the request.",
    ),
    *_tls_options("http", ours=True),
    _tuning("http-thread-count", integer, "the HTTP door needs no threads"),
]
_GRPC = [
    Option("allow-grpc", boolean, "doors.allow_grpc", "Open the gRPC door."),
    Option("grpc-address", string, "doors.grpc_address", "Address to listen on; IPv6 and unix:<path> work too."),
    Option("grpc-port", port, "doors.grpc_port", "Port to listen on; 0 takes any free one and logs it."),
    Option("reuse-grpc-port", boolean, "doors.reuse_grpc_port", "Let several servers share the port (SO_REUSEPORT)."),
    Option(
        "grpc-header-forward-pattern",
        regular_expression,
        "grpc.forward_pattern",
        "Metadata whose key this finds, in any case, becomes parameters of the request.",
    ),
    Option(
        "grpc-restricted-protocol",
        string,
        "grpc.restricted",
        "<protocols>:<key>=<value>: these (a comma list) ask for metadata triton-grpc-protocol-<key>. "
        "May be given several times.",
        repeat=True,
    ),
    *_tls_options("grpc"),
    Option(
        "grpc-infer-response-compression-level",
        choice("grpc-infer-response-compression-level", "none", "low", "medium", "high"),
        "grpc.response_compression_level",
        "Compress the answers of inference for clients that accept it.",
    ),
    Option("grpc-keepalive-time", positive, "grpc.keepalive_time_ms", "Milliseconds of silence before a PING is sent."),
    Option("grpc-keepalive-timeout", positive, "grpc.keepalive_timeout_ms", "Milliseconds to answer that PING."),
    Option(
        "grpc-keepalive-permit-without-calls",
        boolean,
        "grpc.keepalive_permit_without_calls",
        "Send such PINGs also while there is no call.",
    ),
    Option(
        "grpc-http2-min-recv-ping-interval-without-data",
        integer,
        "grpc.ping_interval_without_data_ms_min",
        "A client that pings more often, in milliseconds, earns a strike.",
    ),
    Option("grpc-http2-max-ping-strikes", integer, "grpc.ping_strikes_max", "Strikes forgiven; 0 forgives them all."),
    Option(
        "grpc-max-connection-age",
        integer,
        "grpc.connection_age_ms_max",
        "Milliseconds after which a connection is asked to leave; 0 for never.",
    ),
    Option(
        "grpc-max-connection-age-grace",
        integer,
        "grpc.connection_age_grace_ms",
        "Milliseconds that its calls may go on then; 0 for as long as they need.",
    ),
    Option("grpc-receive-bytes-max", positive, "grpc.receive_bytes_max", "Ours: largest message taken."),
    Option("grpc-send-bytes-max", positive, "grpc.send_bytes_max", "Ours: largest message sent."),
    Option("grpc-concurrent-streams-max", positive, "grpc.concurrent_streams_max", "Ours: calls per connection."),
    Option("grpc-stop-grace", number, "grpc.stop_grace", "Ours: seconds that half a request has left at the end."),
    _tuning("grpc-http2-max-pings-without-data", integer, "one keepalive ping is on its way at a time"),
    _tuning("grpc-infer-allocation-pool-size", integer, "requests are not pooled"),
    _tuning("grpc-infer-thread-count", integer, "the gRPC door needs no threads"),
    _tuning("grpc-max-response-pool-size", positive, "waiting answers are bounded always"),
]
_LOGGING = [
    Option("log-verbose", verbosity, "log.verbose", "How much more to log; 0 is nothing more."),
    Option("log-info", boolean, "log.info", "Log what happens."),
    Option("log-warning", boolean, "log.warning", "Log what looks wrong."),
    Option("log-error", boolean, "log.error", "Log what failed."),
    Option(
        "log-format",
        choice("log-format", "default", "ISO8601", "json"),
        "log.format",
        "How a line begins; json, which is ours: each line an object, with request, model, version, trace and caller.",
    ),
    Option("log-file", string, "log.file", "Append the log to this file instead of the console; it may be rotated."),
    Option(
        "access-log",
        string,
        "access_log.file",
        "Ours: append a line of JSON for each request to this file, with status, bytes and times; '-': to the log.",
    ),
    Option("access-log-rate", positive, "access_log.rate", "Ours: of each N requests one; failed ones always."),
    Option(
        "log-model",
        model_level,
        "log.models",
        "Ours: '<model>,<level>': error, warning, info or a verbose level for lines about that model. Repeatable.",
        repeat=True,
    ),
]
_METRICS = [
    Option("allow-metrics", boolean, "doors.allow_metrics", "Open the metrics door, for Prometheus."),
    Option("allow-cpu-metrics", boolean, "metrics.allow_cpu_metrics", "Measure the machine's CPU and memory too."),
    Option("metrics-address", string, "doors.metrics_address", "Address to listen on; --http-address if not given."),
    Option("metrics-port", port, "doors.metrics_port", "Port to listen on; 0 takes any free one and logs it."),
    Option("metrics-interval-ms", number, "metrics.interval_ms", "Milliseconds between two looks at the machine."),
    Option(
        "metrics-config",
        metric_setting,
        "metrics.config",
        "<setting>=<value>: counter_latencies (true), histogram_latencies (false), summary_latencies (false), "
        "summary_quantiles (0.5:0.05,0.9:0.01,...).",
        repeat=True,
    ),
    Option("allow-gpu-metrics", boolean, "metrics.allow_gpu_metrics", "Measure the GPUs too, where there are any."),
]
_TRACING = [
    Option(
        "trace-config",
        trace_setting,
        "trace.config",
        "[<mode>,]<setting>=<value>: level=OFF|TIMESTAMPS|TENSORS, rate=N (1000), count=N (-1: no end), "
        "mode=triton|opentelemetry; triton,file=PATH, triton,log-frequency=N; opentelemetry,url=URL, "
        "opentelemetry,resource=KEY=VALUE and opentelemetry,bsp_*=N. May be given several times.",
        repeat=True,
    ),
    Option("trace-file", string, "trace.file", "Deprecated: the same as --trace-config=triton,file=PATH."),
    Option("trace-level", string, "trace.level", "Deprecated: the same as --trace-config=level=LEVEL.", repeat=True),
    Option("trace-rate", integer, "trace.rate", "Deprecated: the same as --trace-config=rate=N."),
    Option("trace-count", integer, "trace.count", "Deprecated: the same as --trace-config=count=N."),
    Option(
        "trace-log-frequency",
        integer,
        "trace.log_frequency",
        "Deprecated: the same as --trace-config=triton,log-frequency=N.",
    ),
]
_BACKENDS = [
    Option(
        "backend-config",
        backend_setting,
        "engine.backend_config",
        "[<backend>,]<setting>=<value> for one backend or all. May be given several times.",
        repeat=True,
    ),
    Option(
        "host-policy",
        host_setting,
        "engine.host_policy",
        "<policy>,<setting>=<value>: cpu-cores=<first>-<last>, numa-node=<n>. Where instances live whose group names "
        "the policy; without a name it is cpu, gpu_<id> or model. May be given several times.",
        repeat=True,
    ),
    Option(
        "min-supported-compute-capability",
        number,
        "engine.min_supported_compute_capability",
        "GPUs below it are not used.",
    ),
    Option(
        "backend-directory",
        string,
        "engine.backend_directory",
        "Where backends are that are no Python packages: <directory>/<name>/libtriton_<name>.so, or model.py.",
    ),
    Option(
        "debug-model",
        string,
        "engine.debug_model",
        "Ours: breakpoint() in this Python model, in its own process, too, is at this terminal, and it has no time "
        "limits. Give it one instance.",
    ),
    Option(
        "repoagent-directory",
        string,
        "engine.repoagent_directory",
        "Where libraries of repository agents in C++ are, <name>/libtritonrepoagent_<name>.so.",
    ),
    _tuning("pinned-memory-pool-byte-size", integer, "there is no pinned memory pool"),
    _tuning("cuda-memory-pool-byte-size", string, "there is no CUDA memory pool", repeat=True),
    _tuning("cuda-virtual-address-size", string, "there is no growable CUDA state", repeat=True),
    _tuning("buffer-manager-thread-count", integer, "tensors are not copied by threads"),
    _tuning("enable-peer-access", boolean, "GPUs do not exchange tensors"),
]
_RATE_LIMITING = [
    Option(
        "rate-limit",
        choice("rate-limit", "off", "execution_count"),
        "engine.rate_limit",
        "execution_count: an instance executes once the resources are free that its instance_group asks for; of those "
        "that wait, the one with the fewest executions, times its priority, is first. off: what models say of it is "
        "ignored.",
    ),
    Option(
        "rate-limit-resource",
        resource_limit,
        "engine.rate_limit_resource",
        "<name>:<count>[:<device>]: how much of a resource each device has, or that one. Without any there is as much "
        "of each as one instance needs at most. May be given several times.",
        repeat=True,
    ),
]
_CACHE = [
    Option(
        "cache-config",
        cache_setting,
        "engine.cache_config",
        "<cache>,<setting>=<value>, once for each setting: where answers are kept, of models whose configuration "
        "enables response_cache: local,size=<bytes>; or redis,host=<host> and redis,port=<port>.",
        repeat=True,
    ),
    Option(
        "response-cache-byte-size",
        integer,
        "engine.response_cache_byte_size",
        "Deprecated: the same as --cache-config=local,size=<bytes>; 0 keeps nothing.",
    ),
    Option(
        "cache-joins",
        boolean,
        "engine.cache_joins",
        "Ours: a request for a model whose answers are kept waits for an equal one that executes, and shares its "
        "answer.",
    ),
    Option(
        "cache-directory",
        string,
        "engine.cache_directory",
        "Where libraries of response caches in C++ are, <name>/libtritoncache_<name>.so.",
    ),
]
_SHARED_MEMORY = [
    Option("allow-client-shm", boolean, "engine.allow_client_shm", "Let clients share memory with the server."),
    Option(
        "shared-memory-regions-max",
        positive,
        "engine.shared_memory_regions_max",
        "Ours: regions of clients at one time.",
    ),
    Option(
        "shared-memory-input-bytes-max",
        positive,
        "engine.shared_memory_input_bytes_max",
        "Ours: bytes of one input in shared memory.",
    ),
]
_LATER = [
    _absent("model-load-gpu-limit", string, "a limit on GPU memory for loads", repeat=True),
]

GROUPS: dict[str, list[Option]] = {
    "Server": _SERVER,
    "Model repository": _REPOSITORY,
    "HTTP": _HTTP,
    "gRPC": _GRPC,
    "Metrics": _METRICS,
    "Logging": _LOGGING,
    "Tracing": _TRACING,
    "Backends and memory": _BACKENDS,
    "Rate limiting": _RATE_LIMITING,
    "Response cache": _CACHE,
    "Shared memory": _SHARED_MEMORY,
    "SageMaker": SAGEMAKER,
    "Vertex AI": VERTEX_AI,
    "Not built yet": _LATER,
}
OPTIONS: dict[str, Option] = {option.name: option for group in GROUPS.values() for option in group}
