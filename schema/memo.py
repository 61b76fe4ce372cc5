"""What was worked out for a text, by the text: clients repeat themselves, in whole or in part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_COUNT_MAX: Final = 1024
_BYTES_MAX: Final = 256 * 1024
_TEXT_BYTES_MAX: Final = 512

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Memo(dict[_Key, _Value]):
    """A dictionary that `keep` fills within bounds, for clients choose the texts: so many entries, and so many bytes of
    texts, of which none is long. Where there is no room all is forgotten: whoever repeats himself is known again soon,
    and whoever never does costs no more than that."""

    __slots__ = ("_bytes", "_bytes_max", "_count_max", "_text_bytes_max")

    def __init__(self, *, count_max: int, bytes_max: int, text_bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._text_bytes_max = text_bytes_max
        self._bytes = 0

    def keep(self, key: _Key, value: _Value, size: int) -> None:
        """Notes `value`, whose text has `size` bytes, unless that is too long."""
        if size > self._text_bytes_max:
            return
        self._bytes += size
        if len(self) >= self._count_max or self._bytes > self._bytes_max:
            self.clear()
            self._bytes = size
        self[key] = value

    def clear(self) -> None:
        super().clear()
        self._bytes = 0


class Written(Memo[_Key, bytes]):
    """What is written for a key, which may be what a client has sent: written once, and then known."""

    __slots__ = ("_write",)

    def __init__(self, write: Callable[[_Key], bytes]) -> None:
        super().__init__(count_max=_COUNT_MAX, bytes_max=_BYTES_MAX, text_bytes_max=_TEXT_BYTES_MAX)
        self._write = write

    def __missing__(self, key: _Key) -> bytes:
        text = self._write(key)
        self.keep(key, text, len(text))
        return text
