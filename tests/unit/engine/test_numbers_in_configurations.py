"""Numbers in a configuration: neither work nor memory grows with them, or they are refused."""

from __future__ import annotations

import pytest
import trio
from despina.engine.execute.warmup import BYTES_MAX, COUNT_MAX, ROWS_MAX
from despina.schema.config.instance_groups import INSTANCES_MAX
from despina.schema.fault import InvalidArgument

from tests.fakes import request, write_model

U64, U32, I32 = 2**64 - 1, 2**32 - 1, 2**31 - 1


def warm_up(dims="1", **options):
    given = " ".join(f"{name}: {value}" for name, value in {"batch_size": 1, **options}.items())
    tensor = f'inputs {{ key: "IN" value {{ data_type: TYPE_INT32 dims: [ {dims} ] zero_data: true }} }}'
    return f'model_warmup [ {{ name: "w" {given} {tensor} }} ]'


@pytest.mark.parametrize(
    ("options", "priority"),
    [
        ({"more": f"dynamic_batching {{ priority_levels: {U64} default_priority_level: 1 }}"}, U64),
        ({"more": f"dynamic_batching {{ priority_levels: {U64} default_priority_level: {U64} }}"}, 0),
        ({"max_batch_size": I32, "more": f"dynamic_batching {{ preferred_batch_size: [ 1, {I32} ] }}"}, 0),
        (
            {
                "more": f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {U32} "
                f"default_timeout_microseconds: {U64} allow_timeout_override: true }} }}"
            },
            0,
        ),
        ({"more": f"version_policy {{ latest {{ num_versions: {U32} }} }}"}, 0),
        ({"more": warm_up(count=3, batch_size=8), "instances": 2}, 0),
    ],
)
async def test_large_numbers_cost_nothing(repository, backend, opened, options, priority):
    """Goal: the largest values load and serve at once."""
    write_model(repository, "m", **options)
    with trio.fail_after(5):
        async with opened() as engine:
            response = await engine.infer_request(request(priority=priority))
    assert response.outputs


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"instances": I32}, f"instance groups of model m ask for {I32} instances, the limit is {INSTANCES_MAX}"),
        (
            {"more": f"instance_group [ {{ count: {INSTANCES_MAX} kind: KIND_CPU }} ]"},
            f"ask for {INSTANCES_MAX + 1} instances",
        ),
        (
            {"more": warm_up(batch_size=9)},
            "failed to run warmup sample 'w': batch size 9 for 'm', max allowed is 8; ",
        ),
        ({"more": warm_up(batch_size=U32)}, f"batch size {U32} for 'm', max allowed is 8"),
        (
            {"more": warm_up(batch_size=I32), "max_batch_size": I32},
            f"warmup sample 'w': batch_size is {I32}, the limit is {ROWS_MAX}",
        ),
        ({"more": warm_up(count=U32)}, f"warmup sample 'w': count is {U32}, the limit is {COUNT_MAX}"),
        (
            {"more": warm_up(dims="1000000, 1000000")},
            f"input 'IN': a batch would take more than {BYTES_MAX} bytes with the dims [1000000,1000000]",
        ),
        ({"more": warm_up(dims=", ".join(["9223372036854775807"] * 10_000))}, "a batch would take more than"),
        ({"more": warm_up(dims="70000000", batch_size=8)}, "a batch would take more than"),
        (
            {"more": warm_up().replace("TYPE_INT32", "TYPE_INVALID")},
            "inference input 'IN' data-type is '<invalid>', but model 'm' expects 'INT32'",
        ),
    ],
)
async def test_numbers_that_would_cost_are_refused(repository, backend, opened, options, text):
    """Goal: a count that nobody can have meant is refused by name, before anything is made of it."""
    write_model(repository, "m", **options)
    with trio.fail_after(5):
        async with opened(model_control_mode="explicit") as engine:
            with pytest.raises(InvalidArgument) as caught:
                await engine.load("m")
    assert text in caught.value.message
    assert backend.instances_open == 0
