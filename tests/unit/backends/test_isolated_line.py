"""The line of one process: what is taken back and what is begun, whoever is first."""

from __future__ import annotations

import os

import pytest
from despina.backends.python.isolated.line import AHEAD_MAX, Begun, Line, tokens
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule


class Ends(RuleBasedStateMachine):
    """Goal: each batch is begun or taken back, never both; the process sees that, however late it looks.

    Method: a process that reads its messages one by one, beside a server that hands over, takes back and hears.
    """

    def __init__(self):
        super().__init__()
        self.line = Line()
        self.line.open(tokens())
        self.line.learn(1e-6)
        self.said = []
        """To the process."""
        self.heard = []
        """From it: not yet read by the server."""
        self.begun, self.back = [], []
        self.last = 0

    def teardown(self):
        self.line.close()

    @rule()
    def hand_over(self):
        if len(self.line.begun) < self.line.room:
            self.last += 1
            self.line.offer()
            self.said.append(self.last)
            self.line.begun.append(Begun(self.last, [], print, print))

    @rule()
    def could_not_be_handed_over(self):
        if self.line.room:
            self.line.offer()
            self.line.revoke()

    @rule()
    def process(self):
        if self.said:
            number = self.said.pop(0)
            try:
                os.eventfd_read(self.line._tokens)
            except BlockingIOError:
                self.heard.append("withdrawn")
            else:
                self.begun.append(number)
                self.heard.append(number)

    @rule(count=st.integers(1, 3))
    def hear(self, count):
        for said in self.heard[:count]:
            if said == "withdrawn":
                self.line.withdrawn()
            else:
                assert self.line.begun.popleft().batch == said
        del self.heard[:count]

    @rule()
    def take_back(self):
        taken = [one.batch for one in self.line.take_back()]
        assert taken == sorted(taken, reverse=True)
        self.back += taken

    @invariant()
    def each_once(self):
        assert not {*self.begun} & {*self.back}
        with_it = [one.batch for one in self.line.begun]
        assert with_it == sorted(with_it)
        assert {*with_it} & {*self.back} == set()
        assert len({*self.begun} | {*self.back} | {*with_it}) == self.last
        if any(number in self.back for number in self.said) or "withdrawn" in self.heard:
            assert self.line.room == 0


TestEnds = Ends.TestCase


@pytest.fixture
def opened():
    line = Line()
    yield line
    line.close()


def test_how_many_may_wait(opened):
    """Goal: none before it is known how long they would; as many as are over soon."""
    assert opened.room == 0
    opened.learn(10e-6)
    assert opened.room == 0
    opened.open(tokens())
    assert opened.room == AHEAD_MAX
    for _ in range(100):
        opened.learn(1e-3)
    assert 0 < opened.room < AHEAD_MAX
    for _ in range(100):
        opened.learn(1.0)
    assert opened.room == 0


def test_one_that_was_never_opened():
    """Goal: nothing is taken back, and nothing is left to close."""
    line = Line()
    assert line.take_back() == []
    line.close()
