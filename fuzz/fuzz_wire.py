"""Feeds damaged protobuf bytes to the fast codec and, beside it, to google.protobuf.

    python fuzz/fuzz_wire.py [--seconds 60] [--seed 1]

Both must accept the same bytes and read the same message from them, and the way that reads an inference request
straight from its bytes must give up or say what the message says. A failure ends the run; the bytes are printed as a
Python literal.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from despina.schema import kserve_grpc, kserve_grpc_contents, kserve_grpc_plain
from despina.schema.fault import Fault
from despina.schema.inference import InferenceRequest
from despina.schema.version import parse_version
from despina.schema.wire import codec, packed
from despina.schema.wire.generated import inference
from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.echo import Entered
from fuzz.span import span

SEEDS = Path(__file__).parent / "seeds" / "wire"
PAIRS = [
    (inference.ModelInferRequest, service_pb2.ModelInferRequest),
    (inference.ModelInferResponse, service_pb2.ModelInferResponse),
    (inference.ModelConfig, model_config_pb2.ModelConfig),
    (inference.ModelStatisticsResponse, service_pb2.ModelStatisticsResponse),
]
WAYS = {
    "requests read straight from their bytes": (kserve_grpc_plain, "read_plain_request"),
    "forms of requests": (kserve_grpc_plain, "_known_form"),
    "elements in lists": (kserve_grpc_plain, "_with_elements"),
    "parameters": (kserve_grpc_plain, "_parameter"),
    "texts in lists": (kserve_grpc_contents, "_texts_in"),
    "lists unpacked as one number": (packed, "_joined"),
}
"""Parts of the way straight from the bytes, each entered by some seed."""
PIECES = [b"\x80", b"\xff" * 9, b"\x01", b"\x00", b"\x0b", b"\x0c", b"\x3a\x01x", b"\x2a\x00", b"\x22\x00", b"\xc0\x80"]


def damage(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        choice = rng.randrange(5)
        if choice == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif choice == 1:
            data[at:at] = rng.choice(PIECES)
        elif choice == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif choice == 3:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randrange(1, 60)]
        else:
            del data[at:]
    return bytes(data)


def check(data: bytes) -> bool:
    """Raises AssertionError where the two disagree. Whether the request was read straight from its bytes."""
    for ours, theirs in PAIRS:
        try:
            expected = theirs.FromString(data)
        except DecodeError:
            try:
                codec.decode(ours, data)
            except codec.Malformed:
                continue
            raise AssertionError(f"{ours.__name__}: accepted what the reference refuses") from None
        again = theirs.FromString(codec.encode_to_bytes(codec.decode(ours, data)))
        same = again.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
        assert same, f"{ours.__name__}: read differently"
    plain = [kserve_grpc_plain.read_plain_request(data) for _ in range(2)]
    for request in plain:
        check_short_way(data, request)
    assert (plain[0] is None) == (plain[1] is None)
    return plain[1] is not None


def check_short_way(data: bytes, plain: InferenceRequest | None) -> None:
    if plain is None:
        return
    message = codec.decode(inference.ModelInferRequest, data)
    try:
        request = kserve_grpc.read_request(message, parse_version(message.model_version))
    except Fault as fault:
        raise AssertionError(f"the short way accepts what is refused: {fault}") from fault
    assert (plain.model_name, plain.model_version, plain.id) == (
        request.model_name,
        request.model_version,
        request.id,
    )
    assert list(plain.outputs) == list(request.outputs)
    more = [
        (one.correlation_id, one.sequence_start, one.sequence_end, one.priority, one.timeout_us, one.parameters)
        for one in (plain, request)
    ]
    assert repr(more[0]) == repr(more[1])  # NaN equals itself here
    described = [
        [(one.name, one.datatype, one.shape, bytes(one.memory())) for one in way.inputs.values()]
        for way in (plain, request)
    ]
    assert described[0] == described[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    seeds = [path.read_bytes() for path in sorted(SEEDS.iterdir())]
    entered = Entered()
    entered.watch(WAYS)
    count = plain = 0
    for _ in span(arguments.seconds, lambda: entered.all_of(WAYS)):
        data = damage(bytearray(rng.choice(seeds)), rng)
        try:
            plain += check(data)
        except BaseException:
            print(f"after {count} inputs, seed {arguments.seed}: {data!r}")
            raise
        count += 1
    print(f"{count} inputs, {plain} of them read straight from their bytes, no difference")
    entered.check(WAYS)


if __name__ == "__main__":
    main()
