"""Which heads are accepted, whatever was read before, and beside llhttp."""

import random

import httptools
import pytest
from despina.frontends.http import HttpSettings
from despina.frontends.http.connection.head import CHUNKED, HeadReader, Refusal, fields_of, headers_of

LINES = [
    *(b"Host: h", b"host:h", b"Content-Length: 5", b"content-length:5 ", b"Content-Length: 05", b"Content-Length: 5x"),
    *(b"Content-Length: 6", b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked ", b"Transfer-Encoding: gzip"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: Upgrade", b"Expect: 100-continue", b"A:", b"A: "),
    *(b"A: b\tc", b"A:\tb\t", b"A: \xff", b"A: b\x01", b"A: b\x7f", b"A : b", b" A: b", b"A", b": b", b"A\xff: b"),
    *(b"A: b\nB: c", b"A: b\rB: c", b"A: b\0", b"(A): b", b"traceparent: 00-1-2-01", b"x!#$%&'*+-.^_`|~9: y"),
]
STARTS = [
    *(b"GET / HTTP/1.1", b"POST /v2/models/m/infer HTTP/1.1", b"POST /v2?x=1#y HTTP/1.0", b"GET http://h/v2 HTTP/1.1"),
    *(b"OPTIONS * HTTP/1.1", b"get / HTTP/1.1", b"BREW / HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 "),
    *(b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET /a b HTTP/1.1", b"GET v2 HTTP/1.1", b"GET / ICY/1.1", b"GET /"),
    *(b"GET /\x01 HTTP/1.1", b"GET /\xc3\xa4 HTTP/1.1", b"CONNECT h:80 HTTP/1.1", b"M-SEARCH / HTTP/1.1", b""),
]


def head(dice):
    start = STARTS[0] if dice.random() < 0.7 else dice.choice(STARTS)
    lines = [dice.choice(LINES[: dice.choice((2, 3, len(LINES)))]) for _ in range(dice.randrange(5))]
    text = b"\r\n".join([start, *lines, b"", b""])
    if dice.random() < 0.1:
        at = dice.randrange(max(1, len(text) - 4))
        text = text[:at] + bytes([dice.randrange(256)]) + text[at + dice.randrange(2) :]
    return text


def outcome(reader, text):
    try:
        found = reader.read(text)
    except Refusal as refusal:
        return refusal.status, refusal.message
    form = found.form
    facts = [form.method, form.path, form.telling, found.length, found.header_length, form.is_http10, form.keep_mark]
    return [*facts, form.expects_continue, fields_of(text)]


class Collector:
    def __init__(self):
        self.fields = []

    def on_header(self, name, value):
        self.fields.append((name, value))


def llhttps(text):
    """Method and header lines as llhttp has them; None for what it refuses."""
    collector = Collector()
    parser = httptools.HttpRequestParser(collector)
    parser.set_dangerous_leniencies(lenient_chunked_length=True)  # what that means is our own to decide
    try:
        parser.feed_data(text)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    return parser.get_method(), collector.fields


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_changes_nothing(seed):
    """Goal: a reader that has read thousands of heads says of each what a new one does."""
    dice = random.Random(seed)
    reader = HeadReader(HttpSettings())
    for _ in range(3000):
        text = head(dice)
        assert outcome(reader, text) == outcome(HeadReader(HttpSettings()), text), text


def test_nothing_is_accepted_that_llhttp_refuses_or_reads_otherwise():
    """Goal: no head is taken that a strict parser in front of us might read in another way."""
    dice = random.Random(5)
    reader = HeadReader(HttpSettings())
    accepted = 0
    for _ in range(20_000):
        text = head(dice)
        found = outcome(reader, text)
        if isinstance(found, list):
            accepted += 1
            theirs = llhttps(text)
            assert theirs is not None, text
            assert theirs[0] == found[0]
            assert [(name, value.strip()) for name, value in theirs[1]] == found[-1], text
    assert accepted > 2000


def test_a_head_with_a_new_line_is_not_kept_whole():
    """Goal: clients that say something new each time push nothing out that others repeat."""
    reader = HeadReader(HttpSettings())
    for index in range(100):
        text = b"GET / HTTP/1.1\r\nHost: h\r\ntraceparent: %d\r\n\r\n" % index
        assert headers_of(fields_of(text))[b"traceparent"] == b"%d" % index
        assert reader.read(text).form is reader.read(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").form
    assert len(reader._heads) <= 1
    same = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    assert reader.read(same).form is reader.known(same).form


def test_chunks_and_a_length():
    """Goal: the chunks count, and the connection ends."""
    fields = b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"
    found = HeadReader(HttpSettings()).read(b"POST / HTTP/1.1\r\n%b\r\n" % fields)
    assert (found.length, found.form.keep_mark) == (CHUNKED, None)
