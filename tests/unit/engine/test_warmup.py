"""What warm-up samples may be, and what they become. That instances execute them is in test_instances.py."""

import pytest
from despina.schema.datatype import TABLE
from despina.schema.fault import InvalidArgument

from tests.fakes import answer, config_text, tensor_text, touch, write_model

OWN = 'inputs { key: "IN" value { data_type: TYPE_INT32 dims: [1] zero_data: true } }'
NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def warmup(inputs, *, batch_size=1, count=0, name="first"):
    sample = f'name: "{name}" batch_size: {batch_size} count: {count} inputs {{ key: "IN" value {{ {inputs} }} }}'
    return f"model_warmup [{{ {sample} }}]"


@pytest.fixture
def seen(backend):
    """The batches that the instances have executed."""
    batches = []
    backend.asynchronous = False
    backend.execute_sync = lambda batch: (batches.append(batch), answer(batch))
    return batches


def of_type(repository, datatype, sample, *, dims=(3,), **options):
    tensors = tensor_text("input", "IN", datatype, dims) + tensor_text("output", "OUT", datatype, dims)
    return write_model(repository, "m", config=config_text(tensors=tensors, more=sample, **options))


@pytest.mark.parametrize("datatype", [row.name for row in TABLE])
@pytest.mark.parametrize(
    "kind", ["zero_data: true", "zero_data: false", "random_data: true", 'input_data_file: "data"']
)
async def test_every_datatype_and_kind(repository, opened, seen, datatype, kind):
    """Goal: each sample's array is one that a client could have sent: strings are empty where they are not from a file,
    booleans are 0 or 1, and a file's bytes are what it says."""
    config_type = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    path = of_type(repository, config_type, warmup(f"data_type: {config_type} dims: [3] {kind}"))
    content = b"\1\0\0\0a\0\0\0\0\2\0\0\0bc" if datatype == "BYTES" else bytes(i % 2 for i in range(24))
    (path / "warmup").mkdir()
    (path / "warmup" / "data").write_bytes(content)
    async with opened():
        ((tensor,),) = [job.request.inputs.values() for job in seen[0].jobs]
    assert (tensor.datatype, list(tensor.shape)) == (datatype, [1, 3])
    memory = bytes(tensor.memory())
    if kind.startswith("input"):
        assert memory == content[: len(memory)]
        assert datatype != "BYTES" or tensor.numpy().ravel().tolist() == [b"a", b"", b"bc"]
    elif kind.startswith("zero") or datatype == "BYTES":
        assert not any(memory)
    elif datatype == "BOOL":
        assert set(memory) <= {0, 1}
    else:
        assert any(memory)


async def test_sizes_counts_and_several_samples(repository, opened, seen):
    """Goal: each sample by its batch size and count, in order; batch size 0 skips one."""
    data = "data_type: TYPE_INT32 dims: [1] zero_data: true"
    samples = [(1, 0), (0, 5), (3, 2), (2, 1)]
    write_model(repository, "m", more="".join(warmup(data, batch_size=size, count=count) for size, count in samples))
    async with opened():
        assert [batch.size for batch in seen] == [1, 3, 3, 2]
        assert all(job.batch_size == 1 for batch in seen for job in batch.jobs)


async def test_a_model_without_batches(repository, opened, seen):
    write_model(repository, "m", max_batch_size=0, more=warmup("data_type: TYPE_INT32 dims: [1] zero_data: true"))
    async with opened():
        assert list(seen[0].jobs[0].request.inputs["IN"].shape) == [1]


async def test_variable_sizes_and_none(repository, opened, seen):
    """Goal: a sample fixes what the model leaves open, to nothing too."""
    samples = "".join(warmup(f"data_type: TYPE_FP32 dims: [{size}] random_data: true") for size in (2, 0))
    of_type(repository, "TYPE_FP32", samples, dims=(-1,))
    async with opened():
        assert [batch.jobs[0].request.inputs["IN"].numpy().shape for batch in seen] == [(1, 2), (1, 0)]


async def test_each_instance_that_comes_is_warmed_up(repository, opened, seen):
    """Goal: also one that is added later."""
    sample = warmup("data_type: TYPE_INT32 dims: [1] zero_data: true")
    path = write_model(repository, "m", instances=2, more=sample)
    async with opened(model_control_mode="explicit", load_model="m") as engine:
        assert len(seen) == 2
        write_model(repository, "m", instances=3, more=sample)
        touch(path / "config.pbtxt", 2)
        await engine.load("m")
        assert len(seen) == 3


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (
            "data_type: TYPE_INT32 dims: [1]",
            "[request id: <id_unknown>] warmup setting expects input 'IN' to have input_data_type set",
        ),
        (
            "data_type: TYPE_INT32 dims: [-1] zero_data: true",
            "warmup setting expects all variable-size dimensions are specified for input 'IN'",
        ),
        (
            'data_type: TYPE_INT32 dims: [9] input_data_file: "short"',
            "[request id: <id_unknown>] warmup setting expects 36 bytes, but the data provided from shortonly has 3 "
            "bytes",
        ),
        (
            'data_type: TYPE_INT32 dims: [1] input_data_file: "none"',
            "Internal: failed to open text file for read {}/warmup/none: No such file or directory",
        ),
        (
            'data_type: TYPE_INT32 dims: [1] input_data_file: "."',
            "Internal: failed to open text file for read {}/warmup: Is a directory",
        ),
        (
            "data_type: TYPE_FP32 dims: [1] zero_data: true",
            "[request id: <id_unknown>] inference input 'IN' data-type is 'FP32', but model 'm' expects 'INT32'",
        ),
        (
            "dims: [1] zero_data: true",
            "[request id: <id_unknown>] inference input 'IN' data-type is '<invalid>', but model 'm' expects 'INT32'",
        ),
        (
            "data_type: TYPE_INT32 dims: [3] zero_data: true",
            "[request id: <id_unknown>] unexpected shape for input 'IN' for model 'm'. Expected [-1,1], got [1,3]. "
            + NOTE,
        ),
    ],
)
async def test_bad_samples(virtual_time, repository, backend, opened, inputs, text):
    """Goal: samples that cannot be made fail the load in the protocol's words, and what was opened is closed."""
    path = write_model(repository, "m", more=warmup(inputs))
    (path / "warmup").mkdir()
    (path / "warmup" / "short").write_bytes(b"abc")
    async with opened(model_control_mode="explicit") as engine:
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("m")
        assert f": {text.format(path)};\n" in caught.value.message
    assert backend.opened == backend.closed == [("m", 1)]


async def test_all_bad_samples_are_told_at_once(virtual_time, repository, backend, opened):
    """Goal: who mends one sample need not load again to hear of the next one, nor of the next input."""
    of = 'inputs {{ key: "{}" value {{ data_type: TYPE_INT32 dims: [{}] {} }} }}'.format
    first, second = of("IN", -1, "zero_data: true") + of("ELSE", 1, ""), of("IN", 2**31, "zero_data: true")
    samples = f'{{ name: "a" batch_size: 1 {first} }}, {{ name: "b" batch_size: 1 {second} }}'
    write_model(repository, "m", more=f"model_warmup [{samples}]")
    async with opened(model_control_mode="explicit") as engine:
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("m")
        for text in ("for input 'IN'; ", "input 'ELSE' to have input_data_type set; ", "warmup sample for input 'IN'"):
            assert text in caught.value.message


async def test_inputs_are_whole(virtual_time, repository, backend, opened):
    """Goal: a sample without an input that the model needs is refused; one with an input of nobody is not: models of
    sequences have such."""
    of_nobody = 'inputs { key: "ELSE" value { data_type: TYPE_BOOL dims: [1] zero_data: true } }'
    for sample, refused in ((of_nobody, True), (of_nobody + OWN, False)):
        write_model(repository, "m", more=f'model_warmup [{{ name: "s" batch_size: 1 {sample} }}]')
        async with opened(model_control_mode="explicit") as engine:
            if refused:
                with pytest.raises(InvalidArgument, match=r"expected 1 inputs but got 0 inputs for model 'm'"):
                    await engine.load("m")
            else:
                await engine.load("m")
                assert engine.is_model_ready("m")
