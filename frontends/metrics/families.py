"""The metric families of the protocol: names, kinds and help texts, in the order of the page."""

from __future__ import annotations

from typing import Final, Literal

import attrs

Kind = Literal["counter", "gauge", "histogram", "summary"]


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

CACHE_HITS: Final = Family("nv_cache_num_hits_per_model", "counter", "Number of cache hits per model")
CACHE_HIT_DURATION: Final = Family(
    "nv_cache_hit_duration_per_model", "counter", "Total cache hit duration per model, in microseconds"
)
CACHE_MISSES: Final = Family("nv_cache_num_misses_per_model", "counter", "Number of cache misses per model")
CACHE_MISS_DURATION: Final = Family(
    "nv_cache_miss_duration_per_model",
    "counter",
    "Total cache miss (insert+lookup) duration per model, in microseconds",
)
CACHE_HIT_SUMMARY: Final = Family(
    "nv_cache_hit_summary_per_model", "summary", "Summary of cache hit counts/durations per model, in microseconds."
)
CACHE_MISS_SUMMARY: Final = Family(
    "nv_cache_miss_summary_per_model", "summary", "Summary of cache miss counts/durations per model, in microseconds."
)
CACHE_UTIL: Final = Family("nv_cache_util", "gauge", "Cache utilization [0.0 - 1.0]")
CACHE_ENTRIES: Final = Family("nv_cache_num_entries", "gauge", "Number of responses stored in response cache")
ALL_HITS: Final = Family("nv_cache_num_hits", "gauge", "Number of cache hits in response cache")
ALL_MISSES: Final = Family("nv_cache_num_misses", "gauge", "Number of cache misses in response cache")
ALL_LOOKUPS: Final = Family("nv_cache_num_lookups", "gauge", "Number of cache lookups in response cache")
EVICTIONS: Final = Family("nv_cache_num_evictions", "gauge", "Number of cache evictions in response cache")
LOOKUP_DURATION: Final = Family(
    "nv_cache_lookup_duration", "gauge", "Total cache lookup duration (hit and miss), in microseconds"
)
INSERTION_DURATION: Final = Family(
    "nv_cache_insertion_duration", "gauge", "Total cache insertion duration, in microseconds"
)

BATCHES: Final = Family(
    "despina_batch_count", "counter", "Number of executions by the reason for which their batch was closed"
)
"""Ours: the protocol has no word for why a batch has its size."""

BUILD_INFO: Final = Family("despina_build_info", "gauge", "1, with the releases of the server and of the protocol")
INFLIGHT: Final = Family(
    "despina_inflight_request_count", "gauge", "Requests accepted and not over, waiting or executing"
)
QUEUE_MAX: Final = Family("despina_queue_max", "gauge", "Requests that may wait for the model at one time")
QUEUE_OLDEST: Final = Family(
    "despina_queue_oldest_seconds", "gauge", "How long the request that is to be executed next has waited"
)
INSTANCES: Final = Family(
    "despina_instance_count", "gauge", "Instances by state: serving, or down and to be opened anew"
)
PLACEMENT: Final = Family(
    "despina_execution_count", "counter", "Number of executions by place: inline in the event loop, or elsewhere"
)
UNSERVED: Final = Family(
    "despina_unserved_request_count", "counter", "Number of requests without an answer in time, by reason"
)
DURATIONS: Final = Family(
    "despina_request_duration_seconds", "histogram", "Duration of successful requests, queue included"
)

FIRST_RESPONSE: Final = Family(
    "nv_inference_first_response_histogram_ms",
    "histogram",
    "Duration from request to first response in milliseconds",
)
REQUEST_SUMMARY: Final = Family(
    "nv_inference_request_summary_us",
    "summary",
    "Summary of inference request duration in microseconds (includes cached requests)",
)
QUEUE_SUMMARY: Final = Family(
    "nv_inference_queue_summary_us",
    "summary",
    "Summary of inference queuing duration in microseconds (includes cached requests)",
)
INPUT_SUMMARY: Final = Family(
    "nv_inference_compute_input_summary_us", "summary", INPUT_DURATION.text
)  # the protocol's word, too
INFER_SUMMARY: Final = Family("nv_inference_compute_infer_summary_us", "summary", INFER_DURATION.text)
OUTPUT_SUMMARY: Final = Family("nv_inference_compute_output_summary_us", "summary", OUTPUT_DURATION.text)

GPU_UTILIZATION: Final = Family("nv_gpu_utilization", "gauge", "GPU utilization rate [0.0 - 1.0)")
GPU_MEMORY_TOTAL: Final = Family("nv_gpu_memory_total_bytes", "gauge", "GPU total memory, in bytes")
GPU_MEMORY_USED: Final = Family("nv_gpu_memory_used_bytes", "gauge", "GPU used memory, in bytes")
GPU_POWER_USAGE: Final = Family("nv_gpu_power_usage", "gauge", "GPU power usage in watts")
GPU_POWER_LIMIT: Final = Family("nv_gpu_power_limit", "gauge", "GPU power management limit in watts")
GPU_ENERGY: Final = Family(
    "nv_energy_consumption", "counter", "GPU energy consumption in joules since the Triton Server started"
)

PINNED_TOTAL: Final = Family(
    "nv_pinned_memory_pool_total_bytes", "gauge", "Pinned memory pool total memory size, in bytes"
)
PINNED_USED: Final = Family(
    "nv_pinned_memory_pool_used_bytes", "gauge", "Pinned memory pool used memory size, in bytes"
)
CPU_UTILIZATION: Final = Family("nv_cpu_utilization", "gauge", "CPU utilization rate [0.0 - 1.0]")
CPU_MEMORY_TOTAL: Final = Family("nv_cpu_memory_total_bytes", "gauge", "CPU total memory (RAM), in bytes")
CPU_MEMORY_USED: Final = Family("nv_cpu_memory_used_bytes", "gauge", "CPU used memory (RAM), in bytes")
