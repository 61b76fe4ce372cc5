"""Throws mutated bodies at the HTTP inference codec: only faults may come out, and what is read can be answered.

    python fuzz/fuzz_kserve_http.py --seconds 5 [--seed N] [BODY ...]

A seed file is a body; its header length is where its first line ends, the newline left out. Without --seed every run
differs; a failing body is printed with the header length that failed. Files that are named
are run as they are.
"""

import argparse
import random
import sys
import time
from pathlib import Path

from despina.schema.fault import Fault
from despina.schema.infer_head import ReplyFormat
from despina.schema.inference import InferenceRequest, InferenceResponse
from despina.schema.kserve_http import decode_infer
from despina.schema.kserve_http_reply import encode_error, encode_infer

SEEDS = Path(__file__).parent / "seeds" / "kserve_http"
TOKENS = [
    *[b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"\xff", b"\0", b"null", b"true"],
    *[b"-1", b"1.0", b"1e400", b"NaN", b"-Inf", b"18446744073709551615", b"18446744073709551616", b"[" * 200],
    *[b'"data":', b'"binary_data_size":', b'"classification":', b'"shared_memory_region":', b'"parameters":'],
    *[b'"BYTES"', b'"FP16"', b'"BOOL"', b'"UINT64"', b'"INT8"', b'"id":"a",', b'"outputs":'],
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("bodies", nargs="*", type=Path)
    options = parser.parse_args()
    if options.bodies:
        for path in options.bodies:
            run_one(*read_seed(path))
        return 0
    seed = random.randrange(2**32) if options.seed is None else options.seed
    chance = random.Random(seed)
    corpus = [read_seed(path) for path in sorted(SEEDS.iterdir())]
    end = time.monotonic() + options.seconds
    count = accepted = 0
    while time.monotonic() < end:
        for _ in range(100):
            body, header_length = mutate(chance, *chance.choice(corpus))
            try:
                accepted += run_one(body, header_length)
            except BaseException:
                print(f"seed {seed}, after {count}: header length {header_length}, body {body!r}", file=sys.stderr)
                raise
            count += 1
    print(f"{count} bodies, {accepted} of them requests, seed {seed}")
    return 0


def read_seed(path: Path) -> tuple[bytes, int]:
    head, _, tail = path.read_bytes().partition(b"\n")
    return head + tail, len(head)


def mutate(chance: random.Random, body: bytes, header_length: int) -> tuple[bytes, int | None]:
    """The body with a few edits, the header length moved along with those in the head, and now and then beside it."""
    head, tail = bytearray(body[:header_length]), bytearray(body[header_length:])
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        part = head if chance.random() < 0.85 or not tail else tail
        at = chance.randrange(len(part) + 1)
        match chance.randrange(5):
            case 0:
                del part[at : at + chance.randrange(1, 9)]
            case 1:
                part[at:at] = chance.choice(TOKENS)
            case 2:
                token = chance.choice(TOKENS)
                part[at : at + len(token)] = token
            case 3:
                part[at : at + 1] = bytes([chance.randrange(256)])
            case _:
                start = chance.randrange(len(part) + 1)
                part[at:at] = part[start : start + chance.randrange(40)]
    mutated = bytes(head + tail)
    match chance.randrange(10):
        case 0:
            return mutated, None
        case 1:
            return mutated, chance.randrange(len(mutated) + 1)
    return mutated, len(head)


def run_one(body: bytes, header_length: int | None) -> bool:
    """Reads, reads again (the remembered way), and answers with the inputs as outputs. True when it was a request."""
    outcome = read(body, header_length)
    again = read(body, header_length)
    if isinstance(outcome, Fault) or isinstance(again, Fault):
        assert (type(outcome), str(outcome)) == (type(again), str(again))
        encode_error(str(outcome))
        return False
    (request, reply), (same_request, same_reply) = outcome, again
    assert repr(reply) == repr(same_reply)
    assert describe(request) == describe(same_request)
    for tensor in request.inputs.values():
        response = InferenceResponse("model", "1", [tensor], id=request.id, parameters=request.parameters)
        try:
            head, buffers, has_bytes = encode_infer(response, reply, {}, 8)
        except Fault as fault:
            encode_error(fault.message)
        else:
            assert head.startswith(b"{")
            assert has_bytes is (sum(map(len, buffers)) > 0)
    return True


def read(body: bytes, header_length: int | None) -> tuple[InferenceRequest, ReplyFormat] | Fault:
    try:
        return decode_infer(body, header_length, "model", -1)
    except Fault as fault:
        return fault


def describe(request: InferenceRequest) -> str:
    slots = [repr(getattr(request, slot)) for slot in request.__slots__ if slot != "template"]  # set on repetition
    return repr([slots, {name: bytes(tensor.memory()) for name, tensor in request.inputs.items()}])


if __name__ == "__main__":
    sys.exit(main())
