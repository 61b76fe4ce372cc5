"""The metric families of the protocol: names, kinds and help texts, in the order of the page."""

from __future__ import annotations

from typing import Final, Literal

import attrs

Kind = Literal["counter", "gauge"]


@attrs.frozen
class Family:
    name: str
    kind: Kind
    text: str
    """The HELP text; scrapers show it, so it is the protocol's word for word."""


SUCCESS: Final = Family(
    "nv_inference_request_success", "counter", "Number of successful inference requests, all batch sizes"
)
FAILURE: Final = Family(
    "nv_inference_request_failure", "counter", "Number of failed inference requests, all batch sizes"
)
COUNT: Final = Family(
    "nv_inference_count", "counter", "Number of inferences performed (does not include cached requests)"
)
EXECUTIONS: Final = Family(
    "nv_inference_exec_count", "counter", "Number of model executions performed (does not include cached requests)"
)
REQUEST_DURATION: Final = Family(
    "nv_inference_request_duration_us",
    "counter",
    "Cumulative inference request duration in microseconds (includes cached requests)",
)
QUEUE_DURATION: Final = Family(
    "nv_inference_queue_duration_us",
    "counter",
    "Cumulative inference queuing duration in microseconds (includes cached requests)",
)
INPUT_DURATION: Final = Family(
    "nv_inference_compute_input_duration_us",
    "counter",
    "Cumulative compute input duration in microseconds (does not include cached requests)",
)
INFER_DURATION: Final = Family(
    "nv_inference_compute_infer_duration_us",
    "counter",
    "Cumulative compute inference duration in microseconds (does not include cached requests)",
)
OUTPUT_DURATION: Final = Family(
    "nv_inference_compute_output_duration_us",
    "counter",
    "Cumulative inference compute output duration in microseconds (does not include cached requests)",
)
PENDING: Final = Family(
    "nv_inference_pending_request_count",
    "gauge",
    "Instantaneous number of pending requests awaiting execution per-model.",
)
LOAD_DURATION: Final = Family("nv_model_load_duration_secs", "gauge", "Model load time in seconds")

PINNED_TOTAL: Final = Family(
    "nv_pinned_memory_pool_total_bytes", "gauge", "Pinned memory pool total memory size, in bytes"
)
PINNED_USED: Final = Family(
    "nv_pinned_memory_pool_used_bytes", "gauge", "Pinned memory pool used memory size, in bytes"
)
CPU_UTILIZATION: Final = Family("nv_cpu_utilization", "gauge", "CPU utilization rate [0.0 - 1.0]")
CPU_MEMORY_TOTAL: Final = Family("nv_cpu_memory_total_bytes", "gauge", "CPU total memory (RAM), in bytes")
CPU_MEMORY_USED: Final = Family("nv_cpu_memory_used_bytes", "gauge", "CPU used memory (RAM), in bytes")
