"""Long arrays of numbers in a JSON head, read piece by piece: others get the interpreter between the pieces.

    text ── lift ──▶ the same text with a word of ours for each long `data`small: read like any other
                     LongNumbers: where the elements are in the body    read in pieces, once the datatype is known

For a worker thread. A parser that is given it all at once keeps everybody else waiting for half a second or more.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
import orjson

from .texts import PAUSE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGE_BYTES_MIN: Final = 512 * 1024
"""Of a head: it should be read in a worker thread, for others would wait for it, some 20 ms for each MiB."""
LONG_BYTES_MIN: Final = 128 * 1024
"""Of an array's text; shorter ones are read with the rest."""
_PIECE_BYTES: Final = 48 * 1024
"""A millisecond's work at most."""
_BEGIN: Final = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*\[')
_BEGIN_BYTES: Final = 64
"""As much of it may lie in the piece before; with more blanks in it than that, the array is read with the rest."""
_OTHERS: Final = re.compile(rb'["{}\\]')
"""None is in an array of numbers, nested or not."""
_ROW: Final = re.compile(rb"[ \t\r\n]*\[")
_OPEN, _CLOSE = b"[]"


@attrs.frozen
class LongNumbers:
    """Stands for the elements between the brackets of a `data` array."""

    text: memoryview
    depth: int
    """How deep in brackets the text is."""
    _whole: memoryview
    _separator: bytes
    """Between those that lie deepest but one, or the elements themselves: pieces end there."""

    @classmethod
    def between(cls, text: memoryview) -> LongNumbers:
        """Of what is between an array's brackets."""
        whole, depth = text, 1
        while (row := _ROW.match(text[:_BEGIN_BYTES])) is not None:
            end = _end_of(text, row.end())
            if end < 0 or bytes(text[end + 1 : end + 1 + _BEGIN_BYTES]).strip():
                break
            text = text[row.end() : end]  # it has one row alone
            depth += 1
        opening = bytes(text[:_BEGIN_BYTES]).translate(None, b" \t\r\n").partition(b"[" * _BEGIN_BYTES)[0]
        return cls(text, depth, whole, b"]" * (len(opening) - len(opening.lstrip(b"["))) + b",")

    def pieces(self) -> Iterator[list[Any]]:
        """The elements, nested as they are, in turn. Raises ValueError where they are not what JSON allows there."""
        at, size = 0, len(self.text)
        wanted = _PIECE_BYTES
        while True:
            piece = bytes(self.text[at : at + wanted])
            if at + len(piece) >= size:
                elements = orjson.loads(b"[%b]" % piece)
                if not elements:
                    raise ValueError("nothing follows a comma")
                yield elements
                return
            end = piece.rfind(self._separator)
            if end < 0:
                wanted *= 2
                continue
            end += len(self._separator) - 1
            yield orjson.loads(b"[%b]" % piece[:end])
            at += end + 1
            wanted = _PIECE_BYTES
            time.sleep(PAUSE_S)

    def whole(self) -> list[Any]:
        """The array, all at once. Raises ValueError likewise."""
        elements: list[Any] = orjson.loads(b"[%b]" % bytes(self._whole))
        return elements


@attrs.frozen
class Lifted:
    """A head without its long arrays."""

    text: bytes
    _arrays: dict[str, LongNumbers]

    def restore(self, document: Any) -> bool:
        """Puts the arrays into the parsed text's inputs. False if not all had a place there."""
        left = len(self._arrays)
        inputs = document.get("inputs") if type(document) is dict else None
        for tensor in inputs if type(inputs) is list else ():
            data = tensor.get("data") if type(tensor) is dict else None
            if type(data) is str and (array := self._arrays.get(data)) is not None:
                tensor["data"] = array
                left -= 1
        return not left


def lift(head: memoryview) -> Lifted | None:
    """The head in two parts; None where it has no long arrays of numbers, or others besides."""
    parts: list[bytes] = []
    arrays: dict[str, LongNumbers] = {}
    at, size = 0, len(head)
    while at < size:
        piece = bytes(head[at : at + _PIECE_BYTES])
        found = _open_at_end(piece)
        if found is None:
            keep = len(piece) if at + len(piece) == size else len(piece) - _BEGIN_BYTES
            parts.append(piece[:keep])
            at += keep
            time.sleep(PAUSE_S)
            continue
        begin = at + found.end()
        end = _end_of(head, begin)
        if end < 0:
            return None
        if end - begin < LONG_BYTES_MIN:
            parts.append(bytes(head[at:end]))
        else:
            word = secrets.token_hex(16)
            arrays[word] = LongNumbers.between(head[begin:end])
            parts += (piece[: found.end() - 1], b'"%b"' % word.encode())
            end += 1
        at = end
    return Lifted(b"".join(parts), arrays) if arrays else None


def _open_at_end(piece: bytes) -> re.Match[bytes] | None:
    """The array that begins in the piece and does not end there, as far as one sees."""
    found = _BEGIN.search(piece)
    while found is not None:
        other = _OTHERS.search(piece, found.end())
        if other is None:
            return found
        found = _BEGIN.search(piece, other.start())
    return None


def _end_of(head: memoryview, begin: int) -> int:
    """Where the bracket is that closes the array; -1 where other things are before it."""
    at, size = begin, len(head)
    depth = 1
    while at < size:
        piece = bytes(head[at : at + 4 * _PIECE_BYTES])
        other = _OTHERS.search(piece)
        codes = np.frombuffer(piece, np.uint8, len(piece) if other is None else other.start())
        depths = depth + np.cumsum((codes == _OPEN).astype(np.int32) - (codes == _CLOSE))
        ends = np.flatnonzero(depths == 0)
        if len(ends):
            return at + int(ends[0])
        if other is not None:
            return -1
        depth = int(depths[-1])
        at += len(piece)
        time.sleep(PAUSE_S)
    return -1


def filled(
    numbers: LongNumbers, element_count: int, dtype: np.dtype[Any], encode: Callable[[list[Any]], bytes]
) -> memoryview | None:
    """The wire form of all elements, `encode` by piece; None where there are more or fewer."""
    wire = np.empty(element_count, dtype)
    at = 0
    for elements in numbers.pieces():
        piece = np.frombuffer(encode(elements), dtype)
        end = at + len(piece)
        if end > element_count:
            return None
        wire[at:end] = piece
        at = end
    return wire.view(np.uint8).data if at == element_count else None
