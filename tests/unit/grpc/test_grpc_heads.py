"""Header blocks: ours are read as the hpack library reads them, field by field, and refused where it refuses them."""

import random

import hpack
import pytest
from despina.frontends.grpc.request.head import HeadReader, Meanings
from despina.frontends.grpc.wire.constants import ErrorCode, Http2Error
from despina.frontends.grpc.wire.header_block import HeaderBlocks, Vocabulary
from grpclib.metadata import decode_metadata

LIST_BYTES_MAX = 1200
NAMES = [":path", ":method", "te", "content-type", "traceparent", "x-ü", "", "grpc-timeout", "x" * 130, "age", "via"]


class Method:
    is_streaming = False
    room_for = None


def ours(bytes_max=LIST_BYTES_MAX):
    return HeaderBlocks(bytes_max, Vocabulary(len))


def theirs(bytes_max=LIST_BYTES_MAX):
    return hpack.Decoder(max_header_list_size=bytes_max)


def read_both(blocks, decoder, block):
    """What both say of a block, an error's kind included."""
    try:
        expected = [tuple(field) for field in decoder.decode(block)]
    except hpack.OversizedHeaderListError:
        expected = ErrorCode.ENHANCE_YOUR_CALM
    except (hpack.HPACKError, UnicodeDecodeError, IndexError, ValueError):
        expected = ErrorCode.COMPRESSION_ERROR
    try:
        found = [(field.name, field.value) for field in blocks.decode(block)]
    except Http2Error as error:
        found = error.code
    return found, expected


def blocks_of_a_client(rng, count):
    """What an encoder makes of headers that mostly come again, in a table whose size changes."""
    encoder = hpack.Encoder()
    for _ in range(count):
        if rng.random() < 0.05:
            encoder.header_table_size = rng.choice((0, 60, 200, 4096))
        fields = [
            hpack.NeverIndexedHeaderTuple(rng.choice(NAMES), "v" * rng.randrange(150))
            if rng.random() < 0.2
            else (rng.choice(NAMES), rng.choice(("", "POST", "trailers", "é", f"{rng.random()}", "w" * 300)))
            for _ in range(rng.randrange(10))
        ]
        yield encoder.encode(fields, huffman=rng.random() < 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_read_as_the_library_reads_them(seed):
    """Goal: the same fields of the same blocks, while the table grows, evicts and is resized."""
    rng = random.Random(seed)
    blocks, decoder = ours(10_000), theirs(10_000)
    fullest = 0
    for block in blocks_of_a_client(rng, 300):
        found, expected = read_both(blocks, decoder, block)
        assert found == expected
        assert isinstance(found, list)
        assert blocks._table_bytes == decoder.header_table._current_size
        fullest = max(fullest, blocks._table_bytes)
    assert fullest > 2000


@pytest.mark.parametrize("seed", range(5))
def test_damaged_blocks_are_refused_as_the_library_refuses_them(seed):
    """Goal: no byte, wherever, makes the two disagree, on the block or on those behind it."""
    rng = random.Random(100 + seed)
    outcomes = set()
    for _ in range(120):
        blocks, decoder = ours(), theirs()
        for block in blocks_of_a_client(rng, 6):
            damaged = bytearray(block)
            for _ in range(rng.randrange(3)):
                if damaged:
                    damaged[rng.randrange(len(damaged))] = rng.choice((0, 0x80, 0xFF, 0x3F, 0x20, rng.randrange(256)))
            found, expected = read_both(blocks, decoder, bytes(damaged))
            both = isinstance(found, ErrorCode) and isinstance(expected, ErrorCode)  # which of two faults is met first
            assert found == expected or both, bytes(damaged)
            outcomes.add(found if isinstance(found, ErrorCode) else bool(found))
            if isinstance(found, ErrorCode):
                break
    assert outcomes >= {ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM, True, False}


@pytest.mark.parametrize(
    "block",
    [b"\x80", b"\xbe", b"\xff\x80\x80\x80\x80\x80\x00", b"\x82\x20", b"\x3f\xe2\x1f", b"\x00\x05te", b"\x44\x8a\xff"],
    ids=["nothing", "beyond the table", "endless", "a late size", "too large a table", "cut", "bad code"],
)
def test_what_no_encoder_writes(block):
    found, expected = read_both(ours(), theirs(), block)
    assert found == expected == ErrorCode.COMPRESSION_ERROR


def head_of(fields, *, restricted=(), encoder=None):
    """The head of a block with these fields."""
    meanings = Meanings({"/m": Method}, dict(restricted))
    reader = HeadReader(meanings, 64 * 1024)
    return reader.read((encoder or hpack.Encoder()).encode(fields))


CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/m"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def test_what_a_head_says():
    """Goal: the caller's own fields are kept in order, whatever was remembered of heads that differ in them only."""
    meanings = Meanings({"/m": Method}, {})
    encoder = hpack.Encoder()
    reader = HeadReader(meanings, 64 * 1024)
    for index in range(100):
        fields = [*CALL, ("grpc-timeout", f"{index}S"), ("x-a", f"{index}"), ("x-a", "two"), ("user-agent", "me")]
        head = reader.read(encoder.encode(fields))
        assert (head.method, head.encoding, head.refusal, head.malformed) == (Method, "identity", None, False)
        assert head.timeout_s == index
        assert head.field("x-a") == f"{index}"
        assert head.forwardable() == [("x-a", f"{index}"), ("x-a", "two"), ("user-agent", "me")]
        assert list(head.metadata.items()) == list(decode_metadata(fields).items())
    assert len(meanings._known) <= 4  # of beginnings, too


def told(read, block):
    """All that a head says, or the error it ends with."""
    try:
        head = read(block)
    except Http2Error as error:
        return error.code
    said = (head.method, head.encoding, head.refusal, head.malformed, head.is_plain, head.timeout_s, head.size)
    return list(head.fields), said


@pytest.mark.parametrize("seed", range(20))
def test_heads_that_begin_alike(seed):
    """Goal: what is remembered of a block's beginning changes nothing in what the whole says. Method: calls of one
    client with fields of all kinds that the table has not, some blocks damaged, beside a reader that remembers
    nothing."""
    dice = random.Random(seed)
    meanings = Meanings({"/m": Method}, {"/m": ("key", "value")} if seed % 2 else {})
    encoder, reader = hpack.Encoder(), HeadReader(meanings, 600)
    blocks = HeaderBlocks(600, meanings.vocabulary)

    def anew(block):
        return meanings.head(blocks.decode(block), blocks.size)

    more = [
        ("x-own", "1"),
        ("traceparent", "00-ab"),
        ("x-own", "w" * 200),
        ("te", "late"),
        (":path", "/late"),
        ("key", "value"),
    ]
    more += [("grpc-timeout", "5S"), ("grpc-timeout", "none"), ("grpc-encoding", "gzip"), ("Upper", "x"), ("x-ü", "é")]
    shortened = 0
    for _ in range(200):
        fields = [*CALL, *dice.choice(((), [("grpc-timeout", "1S")], [("user-agent", "me")]))]
        own = dice.choices(more[:3] if dice.random() < 0.7 else more, k=dice.randrange(4))
        fields += [field if dice.random() < 0.05 else hpack.NeverIndexedHeaderTuple(*field) for field in own]
        block = bytearray(encoder.encode(fields, huffman=dice.random() < 0.2))
        if dice.random() < 0.05:
            block[dice.randrange(len(block))] = dice.choice((0, 0x20, 0x3F, 0x80, 0x81, 0xFF, dice.randrange(256)))
        known = len(block) - len(block.lstrip(bytes(range(0x81, 0xFF))))
        shortened += known < len(block) and bytes(block[:known]) in reader._known
        found = told(reader.read, bytes(block))
        assert found == told(anew, bytes(block))
        if isinstance(found, ErrorCode):
            encoder, reader = hpack.Encoder(), HeadReader(meanings, 600)
            blocks = HeaderBlocks(600, meanings.vocabulary)
    assert shortened > 30


OWN = b"\x00\x01x\x01y"
"""A field that the table has not and does not get."""


@pytest.mark.parametrize("rest", [b"\x20", b"\x20" + OWN, OWN + b"\x20"])
def test_a_size_of_the_table_behind_a_known_beginning(rest):
    reader = HeadReader(Meanings({}, {}), 600)
    for _ in range(2):
        assert reader.read(b"\x83\x86" + OWN).field("x") == "y"
    with pytest.raises(Http2Error):
        reader.read(b"\x83\x86" + rest)


def test_a_changed_table_changes_what_equal_blocks_say():
    """Goal: neither a block nor a beginning means what it meant, once another has changed the table."""
    reader = HeadReader(Meanings({}, {}), 600)
    for value in ("a", "b"):
        reader.read(b"\x40\x01v\x01" + value.encode())
        for _ in range(2):
            assert reader.read(b"\xbe" + OWN).field("v") == value
        assert reader.read(b"\xbe\x00\x01x\x01z").field("v") == value
        assert reader.read(b"\xbe" + OWN).field("v") == value


@pytest.mark.parametrize(
    "fields",
    [
        [*CALL, (":authority", "late")],
        [*CALL[:2], ("x-own", "1"), *CALL[2:]],
        [*CALL[:2], ("grpc-timeout", "1S"), *CALL[2:]],
        [*CALL, ("X-Upper", "1")],
        [*CALL, ("connection", "close")],
        [(":path", "/m"), *CALL],
        [*CALL[:3], ("te", "gzip")],
        CALL[1:],
    ],
)
def test_malformed(fields):
    assert head_of(fields).malformed


def test_restricted():
    """Goal: a key that is the caller's own field otherwise decides here, in whatever case it was configured."""
    restricted = {"/m": ("X-Key", "secret")}
    assert head_of(CALL, restricted=restricted).refusal is not None
    assert head_of([*CALL, ("x-key", "wrong")], restricted=restricted).refusal is not None
    assert head_of([*CALL, ("x-key", "secret")], restricted=restricted).refusal is None
