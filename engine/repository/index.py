"""The repository index: what the store has, with what the registry knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schema.wire.generated.inference import RepositoryIndexResponseModelIndex
from .registry import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .registry import Registry


def index_of(names: Mapping[str, int], registry: Registry, ready_only: bool) -> list[RepositoryIndexResponseModelIndex]:
    """Every model that the store has, with the versions ever seen of it. Empty strings stand for what is not known.

    As in the reference server, a model that was tried and has no version has no line.
    """
    found: list[RepositoryIndexResponseModelIndex] = []
    for model, count in names.items():
        entry = registry.models.get(model)
        _, name = registry.split(model)
        if count > 1:
            if not ready_only:
                found.append(
                    RepositoryIndexResponseModelIndex(
                        name=name,
                        state=State.UNAVAILABLE.value,
                        reason="model appears in two or more repositories",
                    )
                )
        elif entry is None or not entry.is_known():
            if not ready_only:
                found.append(RepositoryIndexResponseModelIndex(name=name))
        else:
            found.extend(
                RepositoryIndexResponseModelIndex(
                    name=name, version=str(version.version), state=version.state.value, reason=version.reason
                )
                for version in entry.versions.values()
                if version.state is State.READY or not ready_only
            )
    return found
