"""How an exception of a user's model reads to the client and in a model's state reason."""

from __future__ import annotations

import traceback
from pathlib import Path

_NO_TERMINAL = "BdbQuit"
"""What a debugger raises that has nobody to talk to."""
_OURS = (str(Path(__file__).parent), "despina/backends/python/")
"""Where sources are, and where compiled modules say that they are."""
_MAIN_THREAD_ONLY = "only works in main thread"
"""What Python says of `signal.signal`, and of a loop's `add_signal_handler`, elsewhere."""
_ISOLATION = (
    " (models run on threads of the server's process, whose signals are the server's; a model that handles signals "
    "itself needs isolation in a process of its own: parameter DESPINA_ISOLATION = process)"
)


def failure_text(error: BaseException, roots: tuple[str, ...]) -> str:
    """`<Type>: <text>`, then `At:` and one line for each of the model's frames, innermost first.

    `roots` are the directories of the model. Frames outside of them that led there (this backend, asyncio) are left
    out, as are the import system's: they would tell the caller about our insides only. The log has all of them.
    """
    try:
        text = str(error)
    except BaseException:  # a user's __str__ may raise anything, and this is already the failure path
        text = ""
    if _MAIN_THREAD_ONLY in text:
        text += _ISOLATION
    if type(error).__name__ == _NO_TERMINAL:
        text += "a debugger was told to quit, or has no terminal (despina serve --debug-model NAME gives it one)"
    lines = [f"{type(error).__name__}: {text or '<EMPTY MESSAGE>'}"]
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename.startswith(roots)), len(frames))
    told = [
        f"  {frame.filename}({frame.lineno}): {frame.name}\n"
        for frame in frames[first:]
        if not frame.filename.startswith((*_OURS, "<frozen importlib"))
    ]
    if told:
        lines.append(f"\n\nAt:\n{''.join(reversed(told))}")
    return "".join(lines)
