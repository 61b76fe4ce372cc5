"""Requests that look like others and are not."""

import struct
import zlib

import numpy as np

ADDSUB = b"POST /v2/models/addsub/infer HTTP/1.1\r\nHost: h\r\n"


def parts(seed, padding=0):
    """A body for add/sub of two INT32[1,16]: its JSON head and its tensors; and the sum and difference as bytes."""
    a, b = np.random.default_rng(seed).integers(-(2**30), 2**30, (2, 1, 16), dtype=np.int32)
    tensors = ",".join(
        f'{{"name":"INPUT{index}","shape":[1,16],"datatype":"INT32","parameters":{{"binary_data_size":64}}}}'
        for index in (0, 1)
    )
    head = f'{{"inputs":[{tensors}],"parameters":{{"binary_data_output":true}}{" " * padding}}}'.encode()
    return head, a.tobytes() + b.tobytes(), (a + b).tobytes() + (a - b).tobytes()


def packed_to(body, size):
    """`body` as a gzip member of just `size` bytes: its name fills up what compression saves."""
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(body) + packer.flush()
    name = b"n" * (size - len(packed) - 19) + b"\0"
    return b"\x1f\x8b\x08\x08" + bytes(6) + name + packed + struct.pack("<II", zlib.crc32(body), len(body))


async def test_a_compressed_body_as_long_as_its_contents(door):
    """Goal: what was inflated is not looked for in what comes uncompressed, though the sizes are equal."""
    client = await door.connect()
    json, tensors, expected = parts(1)
    body = json + tensors
    packed = packed_to(body, len(body))
    assert len(packed) == len(body)
    fields = b"Content-Encoding: gzip\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
    head = ADDSUB + fields % (len(json), len(packed))
    for _ in range(4):
        reply = await client.ask(head + packed)
        assert reply.body.endswith(expected)


async def test_a_chunked_head_before_a_body_without_chunks(door):
    """Goal: chunks are asked for where they were announced, after any number of good ones."""
    client = await door.connect()
    json, tensors, expected = parts(1)
    head = ADDSUB + b"Inference-Header-Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(json)
    body = json + tensors
    for _ in range(3):
        reply = await client.ask(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert reply.body.endswith(expected)
    await client.send(head + body)
    await client.stream.send_eof()
    assert b" 200 " not in await client.ended()
