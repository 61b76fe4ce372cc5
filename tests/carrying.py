"""What befalls in tests those who move large messages beside the loop: they are busy, or have no thread."""

import threading


def held_moves(monkeypatch, carrier):
    """A list in which moves wait until somebody does them."""
    moves = []
    ask = carrier._ask
    monkeypatch.setattr(carrier, "_ask", lambda *move: moves.append(lambda: ask(*move)))
    return moves


def refuse_thread(monkeypatch, name):
    """There is no room for threads of that name, until `monkeypatch.undo`."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
