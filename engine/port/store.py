"""The port behind which models are kept. Blocking: every call is made in a worker thread.

names() ── times_ns(name) ──changed?──▶ fetch(name) ──▶ ModelSource: a directory to read and to open from

Directories here, a cloud's buckets elsewhere: those bring what they fetch into a directory that goes when `discard` is
called. What looks at a model's files, or brings others, before it is loaded is a repository agent (agent.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    Needed = Callable[[Path, Sequence[str]], Collection[str]]
    """Told where a model's own files are by now, its configuration among them, and which directories it has: which of
    those a load needs."""


@attrs.frozen(eq=False)
class ModelSource:
    """Where the files of one loaded model are, on this machine."""

    path: Path
    """The model's directory."""
    discard: Callable[[], None] | None = None
    """Called once, when nothing uses the directory any more; None where it stays."""
    serving: Callable[[], None] | None = None
    """Called when what was made of it serves, also when it does so anew."""
    namespace: str = ""
    """The repository that the model is of, where that tells models of one name apart."""
    renamed: bool = False
    """Whether the model is loaded by another name than its directory's."""
    leaving: Callable[[], None] | None = None
    """Called when no look-up finds it any more; before `discard`, which may come without it."""


class ModelStore(Protocol):
    """All models that can be loaded by name; with namespaces, by `<namespace>::<name>`."""

    def check(self) -> None:
        """Before the first use. Raises ValueError for a place that cannot hold models."""
        ...

    def names(self) -> Mapping[str, int]:
        """Every model's name, sorted, with how many models bear it. Raises Internal for what cannot be read."""
        ...

    def split(self, name: str) -> tuple[str, str]:
        """The namespace, empty where there are none, and the name that clients say."""
        ...

    def named(self, name: str) -> list[str]:
        """All models that clients may mean by a name: one without namespaces, and where there is none."""
        ...

    def times_ns(self, name: str) -> Mapping[str, int]:
        """Entry of the model's directory -> newest modification below it; "" is the directory itself.

        Empty when they cannot be read, which means "not changed". Raises InvalidArgument unless just one model bears
        the name. Cheap: it is asked at every look.
        """
        ...

    def fetch(self, name: str, needed: Needed | None = None) -> ModelSource:
        """The model's files, to be read now and for as long as it is loaded; all, or the needed ones where others would
        have to be brought. Raises InvalidArgument as above, Unavailable for a place that is out of reach."""
        ...
