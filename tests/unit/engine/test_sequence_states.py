"""What the engine keeps of a sequence for its model: from START on, errors, files, shapes; and what is refused."""

import numpy as np
import pytest
import trio
from despina.schema.fault import Fault, InvalidArgument
from despina.schema.tensor import Tensor

from tests.fakes import request, value_of, write_model

STATE = 'state [{ input_name: "OLD" output_name: "NEW" data_type: TYPE_INT32 dims: [%s] %s }]'
FILE = 'initial_state: { data_type: TYPE_INT32 dims: [%s] name: "first" data_file: "first" }'
ZERO = 'initial_state: { data_type: TYPE_INT32 dims: [%s] name: "first" zero_data: true }'


def batching(dims="1", initial="", more="", state=STATE):
    return f"sequence_batching {{ {state % (dims, initial)} {more} }}"


def step(id, value, *, start=False, end=False, **options):
    return request(value=value, correlation_id=id, sequence_start=start, sequence_end=end, **options)


class Sums:
    """A model that answers with the sum of a sequence's numbers, and remembers it; or, of 13, fails or forgets."""

    def __init__(self, backend):
        backend.execute = self
        self.seen = []

    async def __call__(self, batch):
        for job in batch.jobs:
            tensors = job.request.inputs
            old = tensors["OLD"].numpy()
            self.seen.append(old.ravel().tolist())
            value = int(tensors["IN"].numpy().ravel()[0])
            total = np.full(old.shape, old.ravel()[0] + value, np.int32)
            if value == 13:
                job.fail(InvalidArgument("unlucky"))
                continue
            if value != 7:
                job.set_state("NEW", Tensor.of("NEW", total))
            job.respond([Tensor.of("OUT", total.reshape(-1)[:1].reshape(tensors["IN"].shape))])


@pytest.fixture
def sums(backend):
    return Sums(backend)


async def answered(engine, *steps):
    """What each of them is answered, one after the other."""
    return [value_of(await engine.infer_request(one)) for one in steps]


@pytest.mark.parametrize("strategy", ["", "oldest { max_candidate_sequences: 4 }"])
@pytest.mark.parametrize("rows", [0, 2])
async def test_a_state_lasts_from_start_to_end(virtual_time, repository, opened, sums, strategy, rows):
    """Goal: each sequence has its own; START begins anew, also in the middle; what sets none keeps the one before."""
    write_model(repository, "m", max_batch_size=rows, more=batching(more=strategy))
    flat = {"batching": rows > 0}
    async with opened() as engine:
        got = await answered(
            engine,
            step(1, 1, start=True, **flat),
            step(2, 100, start=True, **flat) if rows else step(1, 2, **flat),
            step(1, 3, **flat),
        )
        assert got == ([1, 100, 4] if rows else [1, 3, 6])
        assert await answered(engine, step(1, 7, **flat), step(1, 2, **flat)) == ([11, 6] if rows else [13, 8])
        assert await answered(engine, step(1, 5, start=True, **flat), step(1, 1, end=True, **flat)) == [5, 6]
        assert await answered(engine, step(1, 2, start=True, end=True, **flat)) == [2]


async def test_an_error_leaves_the_state(virtual_time, repository, opened, sums):
    """Goal: a request that fails changes nothing, and its sequence goes on."""
    write_model(repository, "m", more=batching())
    async with opened() as engine:
        await answered(engine, step(1, 4, start=True))
        with pytest.raises(InvalidArgument, match="unlucky"):
            await engine.infer_request(step(1, 13))
        assert await answered(engine, step(1, 1)) == [5]


async def test_states_of_sequences_in_one_batch(virtual_time, repository, opened, sums):
    """Goal: each of those that execute together finds its own, and a place without a request finds none of theirs."""
    write_model(repository, "m", max_batch_size=3, more=batching())
    async with opened() as engine, trio.open_nursery() as nursery:
        for id in (1, 2, 3):
            await answered(engine, step(id, 10 * id, start=True))
        sums.seen.clear()
        for id in (1, 3):
            nursery.start_soon(answered, engine, step(id, 1))
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(map(tuple, sums.seen)) == [(0,), (10,), (30,)]


@pytest.mark.parametrize(
    ("dims", "initial", "first"),
    [
        ("1", "", [0]),
        ("2, 2", ZERO % "2, 2", [0, 0, 0, 0]),
        ("3", FILE % "3", [5, 6, 7]),
        ("-1", "", [0]),
        ("2, -1", "", [0, 0]),
    ],
)
async def test_what_a_sequence_begins_with(virtual_time, repository, opened, sums, dims, initial, first):
    """Goal: zero, or the file's content; open dimensions are one; anew with each START."""
    path = write_model(repository, "m", more=batching(dims, initial))
    (path / "initial_state").mkdir()
    (path / "initial_state" / "first").write_bytes(np.array([5, 6, 7], np.int32).tobytes())
    async with opened() as engine:
        await answered(engine, step(1, 1, start=True), step(1, 1, end=True), step(2, 1, start=True))
    assert sums.seen == [first, [first[0] + 1] * len(first), first]


async def test_a_state_may_grow(virtual_time, repository, opened, backend):
    """Goal: with an open dimension the shape is what the model has set, and only equal shapes share a batch."""
    shapes = []

    async def grow(batch):
        shapes.append([job.request.inputs["OLD"].shape for job in batch.jobs])
        for job in batch.jobs:
            old = job.request.inputs["OLD"].numpy()
            job.set_state("NEW", Tensor.of("NEW", np.concatenate([old, job.request.inputs["IN"].numpy()], axis=1)))
            job.respond([Tensor.of("OUT", job.request.inputs["IN"].numpy())])

    backend.execute = grow
    write_model(repository, "m", max_batch_size=4, more=batching("-1", more="oldest { max_candidate_sequences: 4 }"))
    async with opened() as engine, trio.open_nursery() as nursery:
        await answered(engine, step(1, 1, start=True), step(1, 2), step(2, 1, start=True))
        assert [shape for (shape,) in shapes] == [(1, 1), (1, 2), (1, 1)]
        shapes.clear()
        gate, wait = trio.Event(), grow

        async def held(batch):
            await gate.wait()
            await wait(batch)

        backend.execute = held
        for id in (3, 1, 2):
            nursery.start_soon(answered, engine, step(id, 1, start=id == 3))
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(answered, engine, step(4, 1, start=True))
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert all(len(set(batch)) == 1 for batch in shapes)
        assert sorted(shape for batch in shapes for shape in batch) == [(1, 1), (1, 1), (1, 2), (1, 3)]


async def test_no_such_state(virtual_time, repository, opened, backend):
    """Goal: the model is told, with the protocol's words; also one that remembers nothing."""

    async def wrong(batch):
        for job in batch.jobs:
            try:
                job.set_state("WHAT", Tensor.of("WHAT", np.zeros(1, np.int32)))
            except Fault as fault:
                job.fail(fault)

    backend.execute = wrong
    write_model(repository, "m", more=batching())
    write_model(repository, "plain")
    async with opened() as engine:
        for asked in (step(1, 1, start=True), request("plain", 1)):
            with pytest.raises(InvalidArgument, match=r"^state 'WHAT' is not a valid state name\.$"):
                await engine.infer_request(asked)


INITIAL = "initial_state: { data_type: TYPE_%s dims: [%s] %s }"
NAMED = 'name: "first" zero_data: true'
GROWABLE = "use_growable_memory: true "
SAME = "use_same_buffer_for_input_output: true "


@pytest.mark.parametrize(
    ("dims", "more", "text"),
    [
        (
            "1",
            f"{INITIAL % ('INT32', '1', NAMED)} {INITIAL % ('INT32', '1', NAMED)}",
            "initial_state field for state input 'OLD' must contain exactly one or zero element. Found '2' elements.",
        ),
        (
            "1",
            INITIAL % ("FP32", "1", NAMED),
            "The data type used for 'initial_state' field of state 'OLD' does not match the state data type.",
        ),
        (
            "1",
            INITIAL % ("INT32", "1", "zero_data: true"),
            "Field 'name' must be set when using initial_state for state input 'OLD'.",
        ),
        (
            "1",
            INITIAL % ("INT32", "1, 1", NAMED),
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state input "
            "'OLD'. 2 != 1",
        ),
        (
            "1",
            INITIAL % ("INT32", "-1", NAMED),
            "'initial_state' field for state input name 'OLD' contains variable dimensions.",
        ),
        (
            "1",
            INITIAL % ("INT32", "2", NAMED),
            "'initial_state' dim for input name 'OLD' doesn't match 'state' dim description. 2 != 1",
        ),
        (
            "1",
            INITIAL % ("INT32", "1", 'name: "first"'),
            "initial_state setting expects state'OLD' to have state_data set",
        ),
        (
            "4",
            FILE % "4",
            "initial_state setting expects 16 bytes, but the data provided from firstonly has 12 bytes.",
        ),
        ("1", INITIAL % ("INT32", "1", 'name: "x" data_file: "../x"'), "../x"),
        ("1", INITIAL % ("INT32", "1", 'name: "x" data_file: "none"'), "none"),
        (
            "1",
            GROWABLE,
            "In order to 'use_growable_memory', you must also enable 'use_single_buffer' for state input name 'OLD'.",
        ),
        (
            "1",
            GROWABLE + SAME,
            "'use_growable_memory' can only work with KIND_GPU model instances right now. Please either change the "
            "instance type to KIND_GPU or set 'use_growable_memory' to false for state input 'OLD'.",
        ),
        ("1", '}, { input_name: "OLD" output_name: "B" data_type: TYPE_INT32', "State input name 'OLD' specified more"),
        ("1", '}, { input_name: "IN" output_name: "B" data_type: TYPE_INT32', "state input 'IN'"),
        ("1", '}, { input_name: "A" data_type: TYPE_INT32', "state must specify 'output_name' for m"),
        (
            "1",
            '}, { input_name: "A" output_name: "B" data_type: TYPE_INT32 dims: [-5] initial_state { dims: [1, 2] }',
            "state input 'A' dimension must be integer >= 0, or -1 to indicate a variable-size dimension for m; The "
            "data type used for 'initial_state' field of state 'A' does not match the state data type.; Field 'name' "
            "must be set when using initial_state for state input 'A'.; Number of dimensions in 'initial_state' "
            "doesn't match the size of 'state' dimensions for state input 'A'. 2 != 1; 'initial_state' dim for input "
            "name 'A' doesn't match 'state' dim description. 1 != -5; initial_state setting expects state'A' to have "
            "state_data set",
        ),
        ("1", '}, { input_name: "A" output_name: "B"', "state input 'A' must specify 'data_type'"),
    ],
)
async def test_states_that_make_no_sense(virtual_time, repository, opened, sums, dims, more, text):
    """Goal: refused at load, by name, in the protocol's words where it has some."""
    path = write_model(repository, "m", more=batching(dims, more))
    (path / "initial_state").mkdir()
    (path / "initial_state" / "first").write_bytes(bytes(12))
    async with opened(exit_on_error=False) as engine:
        assert engine.health().problems
        assert text in engine.health().problems[0]
    assert not sums.seen
