"""A configuration as a config.pbtxt that explains itself."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import orjson

from ....schema.datatype import BY_NUMBER
from ....schema.message_type import enum_name
from ....schema.wire.generated.inference import ModelInstanceGroupKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ....schema.wire.generated.inference import ModelConfig


def config_text(config: ModelConfig, heading: Sequence[str], doubts: Sequence[str] = ()) -> str:
    """Complete, commented, and read back as `config` as far as frameworks complete one. `heading` is said first;
    `doubts`, above the tensors."""
    return "\n".join(_lines(config, heading, doubts)) + "\n"


def _lines(config: ModelConfig, heading: Sequence[str], doubts: Sequence[str]) -> Iterator[str]:
    batched = config.max_batch_size > 0
    yield from (f"# {line}" for line in heading)
    yield f"name: {_quoted(config.name)}   # that of its directory"
    yield f"backend: {_quoted(config.backend)}"
    if config.platform:
        yield f"platform: {_quoted(config.platform)}"
    if config.default_model_filename:
        yield "# In the directory of each version, 1/, 2/, ...:"
        yield f"default_model_filename: {_quoted(config.default_model_filename)}"
    yield ""
    yield "# Rows of one execution at most. Above 0 every tensor has one dimension more"
    yield "# than its dims say, the first: the batch. With 0 the dims are the whole shape."
    yield f"max_batch_size: {config.max_batch_size}"
    yield ""
    for doubt in doubts:
        yield from (f"# {line}" for line in textwrap.wrap(f"CHECK THIS: {doubt}", 80))
    yield "# A size of -1 may be any. Types: TYPE_BOOL, TYPE_INT8 to TYPE_INT64, TYPE_UINT8 to"
    yield "# TYPE_UINT64, TYPE_FP16, TYPE_FP32, TYPE_FP64, TYPE_BF16, TYPE_STRING (bytes)."
    yield from _tensors("input", config.input)
    yield from _tensors("output", config.output)
    yield ""
    if config.model_transaction_policy is not None and config.model_transaction_policy.decoupled:
        yield "# A request may have any number of answers, which clients read from a stream."
        yield "model_transaction_policy { decoupled: true }"
        yield ""
    yield "# Requests that wait are executed together, up to max_batch_size; the delay is how"
    yield "# long the first of them waits for company."
    if config.dynamic_batching is not None and batched:
        yield "dynamic_batching {"
        yield "  max_queue_delay_microseconds: 0"
        yield "}"
    else:
        yield "# dynamic_batching { max_queue_delay_microseconds: 0 }" + ("" if batched else "   needs max_batch_size")
    yield ""
    yield "# How many executions run at a time, and where: KIND_CPU, or KIND_GPU (count is per"
    yield "# GPU; gpus: [ 0 ] chooses some)."
    yield "instance_group ["
    groups = [(enum_name(ModelInstanceGroupKind(group.kind)), group.count) for group in config.instance_group]
    yield ",\n".join(f"  {{ kind: {kind} count: {count} }}" for kind, count in groups or [("KIND_AUTO", 1)])
    yield "]"
    yield ""
    yield "# Which versions serve: the newest ones (latest), all { }, or"
    yield "# specific { versions: [ 1, 3 ] }."
    yield "version_policy { latest { num_versions: 1 } }"
    yield ""
    yield "# What else there is, off as it stands:"
    yield "# equal requests are answered from the cache (serve --cache-config=...):"
    yield "# response_cache { enable: true }"
    if config.input:
        yield "# zeros are executed before it is ready, so that the first caller waits no longer:"
        yield from (f"# {line}" for line in _warmup(config))


def _tensors(role: str, tensors: Sequence[Any]) -> Iterator[str]:
    """Of a ModelInput or ModelOutput each."""
    yield f"{role} ["
    for index, tensor in enumerate(tensors):
        yield "  {"
        yield f"    name: {_quoted(tensor.name)}"
        yield f"    data_type: {BY_NUMBER[int(tensor.data_type)].config_name}"
        yield f"    dims: {_sizes(tensor.dims)}"
        if tensor.reshape is not None:
            yield f"    reshape {{ shape: {_sizes(tensor.reshape.shape)} }}   # as the model itself has it"
        if getattr(tensor, "optional", False):
            yield "    optional: true"
        yield "  }" + ("," if index < len(tensors) - 1 else "")
    yield "]"


def _warmup(config: ModelConfig) -> Iterator[str]:
    yield 'model_warmup [ { name: "zeros" batch_size: 1'
    for tensor in config.input:
        kind = BY_NUMBER[int(tensor.data_type)].config_name
        dims = _sizes([max(1, size) for size in tensor.dims])
        yield f"  inputs {{ key: {_quoted(tensor.name)} value {{ data_type: {kind} dims: {dims} zero_data: true }} }}"
    yield "} ]"


def _sizes(sizes: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, sizes))} ]" if sizes else "[ ]"


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()
