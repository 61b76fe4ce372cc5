"""Where this project's answers differ from the reference server's on purpose: data, each with its reason.

Suite, then the probe's name, then why; one `*` in a name stands for any text. The reference server is release 24.10.
The rule is the newest release's behaviour, and the reference's wording where the two differ in wording or status only.
An entry whose difference has gone fails the tests, so that this table stays true.
"""

from __future__ import annotations

READY = "the newest release says not found, and which model, where 24.10 only says not ready"
ORDER = "the reference goes through inputs in the order of a hash table; here it is the request's order"
LENGTH = "the newest release refuses a header length that is no number; 24.10 reads its leading digits"
OVERFLOW = "the newest release refuses shapes whose product overflows before it compares them"
ZERO = "a request of no rows is a request; the reference takes its zero for a batch size that is not set"
PLACEHOLDER = "the model's own name of the input, where the reference says raw_input"
WIDE = "an unsigned integer beyond 63 bits stays an integer; the reference makes it a double"
LENGTHS = "lying lengths are refused before the model runs, and the message names the request and the model"
PATHS = "the newest release refuses such names before it looks for a model"
BODY = "a body that is not an object is refused; the reference ignores it"
OVERRIDE = "files that come with a load are served; the reference keeps the old ones when the configuration is the same"
EXECUTE = "the newest release refuses a model without execute when it is loaded, not when it is asked"
RESERVED = "the newest release names what the key must not begin with"
GPUS = "there are no GPUs to register memory of; the reference was built for them, and says that the arguments are bad"
TURN = "strings in shared memory are read, and so checked, when the request's turn comes: after execution, to a client"
VERSION = "the version of the protocol that is spoken"
TYPES = "Python's name of the class, which lives in another module here"
FORWARD = "the newest release refuses headers named as parameters of the protocol; 24.10 forwards them"
CAPITALS = "metadata is in lower case, so the reference never finds a key with capitals; here case does not matter"
NO_INPUTS = (
    "a model whose inputs are all optional may be asked with none of them, a batch of one; "
    "the reference needs an input to learn the batch size from, and serves such requests only without batches"
)
COUNTS = "an answer that is an error counts as a failure; the reference's Python backend reports it as a success"
PAGE = "the newest release shows how long each load took, and the histogram of first responses where that is asked for"
POOL = "there is no pinned memory pool, and its gauges say so"
COUNTERS = "without cumulated durations, counts go on; the reference stops counting anything, which is a bug"
TWICE = "outputs that are listed twice are refused, as by the newest release"

KNOWN_DIFFERENCES: dict[tuple[str, str], str] = {
    ("http", "route GET /v2"): VERSION,
    ("http", "index []"): BODY,
    ("http", "infer tensor three"): ORDER,
    ("http", "infer optional three"): ORDER,
    ("http", "infer tensor shape [16]"): ORDER,
    ("http", "infer tensor shape [2, 8]"): ORDER,
    ("http", "infer tensor shape [16, 1]"): ORDER,
    ("http", "infer batches differ"): ORDER,
    ("http", "infer tensor shape [0, 16]"): ZERO,
    ("http", "infer batch of 0"): ZERO,
    ("http", "infer tensor shape [4294967296, 4294967296]"): OVERFLOW,
    ("http", "infer header length '*"): LENGTH,
    ("http", "infer member outputs twice"): TWICE,
    ("http", "infer bytes cut text*"): LENGTHS,
    ("http", "infer bytes huge length*"): LENGTHS,
    ("http", "raw variable *"): PLACEHOLDER,
    ("http", "raw fixed short"): PLACEHOLDER,
    ("http", "infer parameter custom=9223372036854775808"): WIDE,
    ("http", "infer parameter custom=18446744073709551615"): WIDE,
    ("http", "coding ''"): "an empty Content-Encoding names no coding",
    ("http", "infer misbehave not_a_list"): TYPES,
    ("http", "unknown method"): "a method that HTTP does not know is a malformed request",
    ("http", "statistics misbehave"): COUNTS,
    ("http_explicit", "*ready"): READY,
    ("http_explicit", "068 get /v2/health/ready"): PATHS,
    ("http_explicit", "014 get /v2/models/plain/stats"): "loading an unchanged model again changes nothing here",
    ("http_explicit", "017 load plain []"): BODY,
    ("http_explicit", "018 load plain 1"): BODY,
    ("http_explicit", "019 load plain null"): BODY,
    ("http_explicit", "033 load plain *"): "content that is not base64 is named; the reference decodes it to something",
    ("http_explicit", "035 load .. {}"): PATHS,
    ("http_explicit", "045 infer plain "): OVERRIDE,
    ("http_explicit", "117 load no_execute {}"): EXECUTE,
    ("http_explicit", "118 get /v2/models/no_execute"): EXECUTE,
    ("http_explicit", "148 index "): EXECUTE,
    ("http_explicit", '149 index {"ready":true}'): EXECUTE,
    ("http_explicit", "153 unload plain {"): BODY,
    ("http_explicit", "154 unload plain []"): BODY,
    ("http_explicit", '158 unload other {"parameters":[]}'): BODY,
    ("grpc", "ServerMetadata"): VERSION,
    ("grpc", "reflection"): "reflection is served, so that tools without .proto files work; the reference has none",
    ("grpc", "infer three inputs"): ORDER,
    ("grpc", "infer second input {'shape': *"): ORDER,
    ("grpc", "infer bytes cut text"): LENGTHS,
    ("grpc", "infer bytes huge"): LENGTHS,
    ("grpc", "infer misbehave not_a_list"): TYPES,
    ("grpc", "infer output twice"): TWICE,
    ("grpc", "infer misbehave twice"): "the reference writes the second output of one name into the first",
    ("grpc", "statistics misbehave"): COUNTS,
    ("grpc_explicit", "009 load  "): PATHS,
    ("grpc_explicit", "010 load .. "): PATHS,
    ("grpc_explicit", "011 load a/b "): PATHS,
    ("grpc_explicit", "021 infer plain"): OVERRIDE,
    ("grpc_explicit", "044 load no_execute "): EXECUTE,
    ("grpc_explicit", "054 index {}"): EXECUTE,
    ("grpc_explicit", "055 index {'ready': True}"): EXECUTE,
    ("http_shared_memory", "143 infer *"): TWICE,
    ("http_shared_memory", '* {"key": "/triton_python_backend_shm_region_x", "byte_size": 8}'): RESERVED,
    ("http_shared_memory", "075 post *"): GPUS,
    ("http_shared_memory", "152 strings *"): TURN,
    ("http_shared_memory", "153 strings *"): TURN,
    ("grpc_shared_memory", "019 CudaSharedMemoryRegister *"): GPUS,
    ("http_doors", "forward reserved"): FORWARD,
    ("http_doors", "forward reserved prefix"): FORWARD,
    ("http_doors", "forward empty"): "an empty header is empty; the reference makes it one blank",
    ("http_doors", "accept 'gzip; q=0.2, deflate; q=0.9' *"): "HTTP allows blanks around weights",
    ("http_doors", "log 21 []"): BODY,
    ("grpc_doors", "forward reserved*"): FORWARD,
    ("grpc_doors", "restricted RepositoryIndex right"): CAPITALS,
    ("grpc_doors", "restricted RepositoryModelLoad right"): CAPITALS,
    ("grpc_doors", "restricted ModelStatistics right"): CAPITALS,
    ("http_streaming", "generate plain {}"): NO_INPUTS,
    ("http_streaming", 'infer plain {"inputs":[]}'): NO_INPUTS,
    ("grpc_streaming", "stream no inputs, batches"): NO_INPUTS,
    ("grpc_streaming", "infer without inputs"): NO_INPUTS,
    ("grpc_streaming", "infer without inputs, with id"): NO_INPUTS,
    **{
        (suite, probe): why
        for suite in ("metrics", "metrics_summaries", "metrics_config")
        for probe, why in {
            "fresh": PAGE,
            "families*": PAGE,
            "nv_pinned_memory_pool_total_bytes": POOL,
            "nv_inference_request_success of tasks/2": COUNTS,
            "nv_inference_request_success of pieces/2*": COUNTS,
            "nv_inference_request_failure of tasks/2*": COUNTS,
            "nv_inference_request_failure of pieces/2*": COUNTS,
            "nv_inference_count of tasks/2": COUNTS,
            "nv_inference_count of pieces/2*": COUNTS,
        }.items()
    },
    ("metrics_summaries", "nv_inference_*_summary_us of tasks/2"): COUNTS,
    ("metrics_summaries", "nv_inference_*_summary_us of pieces/2"): COUNTS,
    ("metrics_config", "nv_inference_*_summary_us of tasks/2"): COUNTS,
    ("metrics_config", "nv_inference_*_summary_us of pieces/2"): COUNTS,
    ("metrics_config", "nv_inference_request_success of *"): COUNTERS,
    ("metrics_config", "nv_inference_request_failure of *"): COUNTERS,
    ("metrics_config", "nv_inference_count of *"): COUNTERS,
    ("metrics_config", "nv_inference_exec_count of *"): COUNTERS,
}

OPENTELEMETRY_DIFFERENCES: dict[str, str] = {
    "* a later version": "a context of a later version is read as far as this one goes, as W3C asks; not so there",
    "* capitals": "a context in capitals is not valid, says W3C; the reference takes it",
    "* refused": "a refused request has its door's span, so that its caller's trace shows it; the reference has none",
}
"""Of spans: the request's name in test_opentelemetry.py, then why."""

NUMBER = "a length that is no number is refused in words meant for it; the reference reads a 0, a raw request"
STRICT = "a path and a method that do not belong together are 400; the reference answers something else"
PLACE = "the message says where"
CLOUD_DIFFERENCES: dict[tuple[str, str], str] = {
    ("cloud_vertex_ai", "length ''"): NUMBER,
    ("cloud_vertex_ai", "length 'x5'"): NUMBER,
    ("cloud_vertex_ai", "redirect v2"): VERSION,
    ("cloud_sagemaker", "length ''"): NUMBER,
    ("cloud_sagemaker", "length 'x5'"): NUMBER,
    ("cloud_many_models", "one: length ''"): NUMBER,
    ("cloud_many_models", "one: length 'x5'"): NUMBER,
    ("cloud_many_models", "load what fails"): PLACE,
    ("cloud_many_models", "load what fails again"): PLACE,
    ("cloud_many_models", "load nothing"): PLACE,
    ("cloud_many_models", "invoke without a name"): STRICT,
    ("cloud_many_models", "DELETE the list"): STRICT,
    ("cloud_many_models", "GET an invocation"): STRICT,
    ("cloud_many_models", "list two"): "in the order of the loads; the reference lists in that of a hash table",
}
"""Of the doors of hosted services: test_cloud_doors.py."""


def reason(suite: str, probe: str) -> str | None:
    """Why this answer may differ, or None if it may not."""
    return next((why for key, why in KNOWN_DIFFERENCES.items() if matches(key, suite, probe)), None)


def matches(key: tuple[str, str], suite: str, probe: str) -> bool:
    """Whether an entry of the table speaks of this probe."""
    start, star, end = key[1].partition("*")
    if key[0] != suite or len(probe) < len(start) + len(end):
        return False
    return probe.startswith(start) and probe.endswith(end) if star else probe == start
