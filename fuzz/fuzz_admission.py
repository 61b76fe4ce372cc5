"""Throws random requests at the checks of random models: only client faults come out, and what passes can be read.

Each request comes three times, with what its kind has in common, so that the last is let in by an earlier verdict: all
three must be the same.

    python fuzz/fuzz_admission.py --seconds 5 [--seed N]

Without --seed every run differs; a failing request is printed with its model and the seed.
"""

import argparse
import random
import sys
from pathlib import Path

from despina.engine.request.admission import Admission
from despina.engine.request.job import Job
from despina.schema.datatype import TABLE
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest, Template
from despina.schema.tensor import Tensor, encode_bytes
from despina.schema.wire.generated.inference import DataType, ModelConfig, ModelInput, ModelOutput

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.span import span

NAMES = ("A", "B", "C", "")
SIZES = (-(2**63), -2, -1, 0, 1, 1, 1, 2, 2, 3, 4, 7, 2**31, 2**62, 2**64)

KNOWN = {"requests": 0}
"""Let in by an earlier verdict."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    chance = random.Random(seed)
    count = accepted = 0
    for _ in span(options.seconds, lambda: KNOWN["requests"] > 0):
        config = random_config(chance)
        for _ in range(200):
            request = random_request(chance, config)
            try:
                batch_size, was_known = run_one(config, request)
                accepted += batch_size > 0
                KNOWN["requests"] += was_known
            except BaseException:
                inputs = [(*_facts(tensor), tensor.wire is not None) for tensor in request.inputs.values()]
                print(f"seed {seed}, after {count}: {config}\nraw {request.raw}, inputs {inputs}", file=sys.stderr)
                raise
            count += 1
    print(f"{count} requests, {accepted} admitted, {KNOWN['requests']} by an earlier verdict, seed {seed}")
    assert KNOWN["requests"], "no request was let in by an earlier verdict"
    return 0


def random_config(chance: random.Random) -> ModelConfig:
    return ModelConfig(
        name="m",
        max_batch_size=chance.choice([0, 0, 1, 4]),
        input=[
            ModelInput(
                name=name,
                data_type=DataType(chance.choice(TABLE).number),
                dims=[chance.choice([-1, 1, 2, 3]) for _ in range(chance.randint(0, 3))],
                optional=chance.random() < 0.2,
                allow_ragged_batch=chance.random() < 0.1,
                is_shape_tensor=chance.random() < 0.1,
            )
            for name in NAMES[: chance.randint(0, 3)]
        ],
        output=[ModelOutput(name="OUT")],
    )


def random_request(chance: random.Random, config: ModelConfig) -> InferenceRequest:
    """Mostly what the model wants, with a few things wrong."""
    rows = chance.choice([1, 1, 2, 4, chance.choice(SIZES)])
    tensors = {}
    for spec in config.input:
        if chance.random() < 0.05:
            continue
        kind = next(row for row in TABLE if row.number == int(spec.data_type))
        if chance.random() < 0.03:
            kind = chance.choice(TABLE)
        shape = [size if size > 0 else chance.choice([0, 1, 2, 5]) for size in spec.dims]
        if config.max_batch_size and not spec.is_shape_tensor:
            shape.insert(0, rows)
        if chance.random() < 0.1:
            shape = [*shape, *chance.choices(SIZES, k=chance.randint(0, 2))]
        if shape and chance.random() < 0.1:
            shape[chance.randrange(len(shape))] = chance.choice(SIZES)
        tensors[spec.name] = Tensor(spec.name, kind.name, tuple(shape), _memory(chance, shape, kind.byte_size))
    if chance.random() < 0.05:
        tensors["X"] = Tensor("X", "INT8", [1], b"\0")
    raw = len(tensors) == 1 and chance.random() < 0.2
    outputs = ["OUT"] if chance.random() < 0.9 else ["OUT", "X"]
    return InferenceRequest("m", tensors, outputs=outputs, raw=raw, id=chance.choice(["", "7"]))


def _memory(chance: random.Random, shape: list[int], byte_size: int) -> bytes:
    elements = 1
    for size in shape:
        elements *= max(0, size)
    if elements > 1000:
        return chance.randbytes(chance.randint(0, 16))
    if byte_size:
        data = bytes(elements * byte_size)
    else:
        data = encode_bytes([chance.randbytes(chance.choice([0, 1, 9])) for _ in range(elements)])
    if data and chance.random() < 0.1:
        at = chance.randrange(len(data))
        return chance.choice([data[:at], data + b"\0", data[:at] + chance.randbytes(1) + data[at + 1 :]])
    return data


def run_one(config: ModelConfig, request: InferenceRequest) -> tuple[int, bool]:
    """The batch size of the request, 0 if it is refused; and whether the last was let in by an earlier verdict."""
    request.template = Template()
    admission = Admission(config)
    before = [_facts(tensor) for tensor in request.inputs.values()]
    verdicts = [admitted(admission, request) for _ in range(3)]
    first = verdicts[0]
    if isinstance(first, str):
        assert verdicts == [first] * 3
        return 0, False
    for job in verdicts:
        assert isinstance(job, Job), f"admitted once, and then refused: {job}"
        assert job.batch_size == first.batch_size
        assert job.key == first.key or not first.batch_size, "without rows it is alone: its key is its own"
    check_admitted(config, request, first, before)
    return first.batch_size, request.template in admission._admitted


def admitted(admission: Admission, request: InferenceRequest) -> Job | str:
    """The job, or why there is none."""
    job = Job(request, None)
    try:
        admission.admit(job)
    except InvalidArgument as fault:
        return fault.message
    return job


def check_admitted(config: ModelConfig, request: InferenceRequest, job: Job, before: list) -> None:
    assert [_facts(tensor) for tensor in request.inputs.values()] == before, "the request was written to"
    assert 0 <= job.batch_size <= max(1, config.max_batch_size)
    hash(job.key)
    for tensor in job.request.inputs.values():
        if max(tensor.shape, default=0) < 2**62:  # no array is that wide, not even without elements
            assert tensor.numpy().shape == tuple(tensor.shape)


def _facts(tensor: Tensor) -> tuple[str, str, tuple[int, ...], bytes]:
    return tensor.name, tensor.datatype, tuple(tensor.shape), bytes(tensor.memory())


if __name__ == "__main__":
    sys.exit(main())
