"""Throws mutated bodies at the HTTP inference codec: only faults may come out, and what is read can be answered.

Each body is read three times, so that the codec remembers the frame of its head, and answered three times: each time
the same. Then it is read once more with everything forgotten: the frame may have been another body's.

    python fuzz/fuzz_kserve_http.py --seconds 5 [--seed N] [BODY ...]

A seed file is a body; its header length is where its first line ends, the newline left out. Without --seed every run
differs; a failing body is printed with the header length that failed. Files that are named
are run as they are.
"""

import argparse
import random
import sys
from pathlib import Path
from typing import Any

from despina.schema import kserve_http
from despina.schema.fault import Fault
from despina.schema.infer_head import ReplyFormat
from despina.schema.inference import InferenceRequest, InferenceResponse, ResponseTemplate
from despina.schema.kserve_http import decode_infer
from despina.schema.kserve_http_reply import encode_error, encode_infer
from despina.schema.tensor import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.span import span

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
    count = accepted = 0
    watch_frames()
    for _ in span(options.seconds, lambda: all(FILLED.values())):
        for _ in range(100):
            body, header_length = mutate(chance, *chance.choice(corpus))
            try:
                reads = run_one(body, header_length)
            except BaseException:
                print(f"seed {seed}, after {count}: header length {header_length}, body {body!r}", file=sys.stderr)
                raise
            count += 1
            accepted += reads > 0
            FILLED["whole"] += reads == 2
    print(f"{count} bodies, {accepted} of them requests, {FILLED['whole']} of these remembered, seed {seed}")
    assert all(FILLED.values()), f"of what is cut out of heads, some was never read: {FILLED}"
    return 0


FILLED = {"whole": 0, "parameters": 0, "elements": 0, "in vain": 0}
"""How often a head was made of a frame and what was cut out of it."""


def watch_frames() -> None:
    filled = kserve_http._filled

    def watched(known: Any, request: Any, parameters: Any, elements: Any, *others: Any) -> Any:
        reply = filled(known, request, parameters, elements, *others)
        FILLED["parameters"] += reply is not None and parameters is not None
        FILLED["elements"] += reply is not None and len(elements) > 0
        FILLED["in vain"] += reply is None
        return reply

    kserve_http._filled = watched


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


def run_one(body: bytes, header_length: int | None) -> int:
    """Reads three times and answers each time with the inputs as outputs. Returns 0 when it is no request, 1 when it
    is one, 2 when the codec remembered its head from the first time on."""
    outcomes = [read(body, header_length) for _ in range(3)]
    again = outcome(outcomes[0])
    frames = dict(kserve_http._frames)
    kserve_http._frames.clear()
    assert outcome(read(body, header_length)) == again
    kserve_http._frames.update(frames)
    faults = [(type(one), str(one)) for one in outcomes if isinstance(one, Fault)]
    if faults:
        assert faults == faults[:1] * 3
        encode_error(faults[0][1])
        return 0
    found = [one for one in outcomes if not isinstance(one, Fault)]
    first = found[0]
    for request, reply in found:
        assert repr(reply) == repr(first[1])
        assert describe(request) == describe(first[0])
    templates = [request.template for request, _ in found]
    assert templates[1] is templates[2], "remembered once, and not again"
    for tensor in first[0].inputs.values():
        answers = [answered(request, reply, [tensor]) for request, reply in found]
        assert answers == answers[:1] * 3
    answers = [answered(request, reply, list(request.inputs.values())) for request, reply in found]
    assert answers == answers[:1] * 3
    assert answers == [answered_by_form(request, reply) for request, reply in found]
    return 1 if templates[1] is None else 2


def answered(request: InferenceRequest, reply: ReplyFormat, outputs: list[Tensor]) -> tuple[bytes, ...] | str:
    """The parts of the answer, or the fault that it is."""
    return encoded(InferenceResponse("model", "1", outputs, id=request.id, parameters=request.parameters), reply)


def answered_by_form(request: InferenceRequest, reply: ReplyFormat) -> tuple[bytes, ...] | str:
    """The same by a response that tells its form."""
    tensors = list(request.inputs.values())
    template = ResponseTemplate("model", "1", [(one.name, one.datatype, tuple(one.shape)) for one in tensors])
    response = template.response(request.id, [bytes(one.memory()) for one in tensors])
    response.parameters = request.parameters
    encoded(response, reply)
    return encoded(response, reply)


def encoded(response: InferenceResponse, reply: ReplyFormat) -> tuple[bytes, ...] | str:
    try:
        head, buffers, has_bytes = encode_infer(response, reply, {}, 8)
    except Fault as fault:
        encode_error(fault.message)
        return fault.message
    assert head.startswith(b"{")
    assert has_bytes is (sum(map(len, buffers)) > 0)
    return (head, *map(bytes, buffers))


def outcome(found: tuple[InferenceRequest, ReplyFormat] | Fault) -> str:
    return repr((type(found), str(found))) if isinstance(found, Fault) else describe(found[0]) + repr(found[1])


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
