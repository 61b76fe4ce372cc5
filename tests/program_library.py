"""What the C library gives to a pump and takes from it (native/extension_port.py), in Python: for who looks at the
pump and needs no program."""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio
from despina.native.extension_port import CANCEL, INFER, KNOWN

PLAIN = (None, 0, 0, 0, 0, 0)
"""What a request says behind its outputs where that is nothing."""


class ProgramLibrary:
    """Its queue, and what it was told of each request, by the request's address. With `by_forms` it asks for forms, as
    the real one does; else all requests are taken whole."""

    def __init__(self, *, by_forms: bool) -> None:
        self._by_forms = by_forms
        self._waiting: list[tuple[int, Any]] = []
        self._forms: dict[Any, Any] = {}
        self.told: dict[int, tuple[Any, ...]] = {}
        self.kinds: Counter[int] = Counter()
        """Requests that were taken, by INFER and KNOWN."""
        self._news = trio.Event()

    def push(self, taken: tuple[Any, ...]) -> None:
        """A request waits."""
        self._waiting.append((INFER, taken))

    def cancel(self, ticket: int) -> None:
        """The program cancels one that it has sent."""
        self._waiting.append((CANCEL, ticket))

    async def until_told(self, count: int) -> None:
        """Until so many requests are over."""
        while len(self.told) < count:
            self._news = trio.Event()
            await self._news.wait()

    def forget_forms(self) -> None:
        """The generation is over."""
        self._forms.clear()

    def pop(self, server: int, most: int, make: Any) -> list[tuple[int, Any]]:
        events: list[tuple[int, Any]] = []
        last = None
        for kind, what in self._waiting[:most]:
            form = self._form_of(what, make) if kind == INFER and self._by_forms else None
            if form is None:
                self.kinds[INFER] += kind == INFER
                events.append((kind, what))
            else:
                self.kinds[KNOWN] += 1
                if form is not last:
                    events.append((KNOWN, (form, [])))
                events[-1][1][1].append((what[0], what[1], what[4], tuple(entry[3] for entry in what[5])))
            last = form
        del self._waiting[:most]
        return events

    def _form_of(self, taken: tuple[Any, ...], make: Any) -> Any:
        _, _, name, version, _, inputs, outputs, *rest = taken
        if tuple(rest) != PLAIN or any(entry[4] for entry in inputs):
            return None
        key = name, version, tuple(entry[:3] for entry in inputs), outputs
        if key not in self._forms:
            self._forms[key] = make(name, version, key[2], outputs)
        return self._forms[key]

    def answer_known(self, server: int, answers: list[tuple[Any, ...]]) -> list[int]:
        for address, name, version, outputs, parameters in answers:
            self.answer(server, address, 0, True, False, name, version, outputs, parameters, None)
        return []

    def answer(self, server: int, address: int, ticket: int, final: bool, credit: bool, *said: Any) -> None:
        name, version, outputs, parameters, _ = said
        tensors = [(tensor, datatype, tuple(shape), bytes(wire)) for tensor, datatype, shape, wire in outputs]
        self._tell(address, name, version, tensors, parameters or None, final)

    def fail(self, server: int, address: int, ticket: int, final: bool, credit: bool, *said: Any) -> None:
        self._tell(address, *said[:2], final)

    def _tell(self, address: int, *said: Any) -> None:
        assert address not in self.told, "told twice"
        self.told[address] = said
        self._news.set()
