"""What tells models apart: their names, or, with namespaces, where they are as well. Pure.

identifier   "m", or "<repository>::m" with namespaces
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model.hosted import HostedVersion

SEPARATOR = "::"


def identifier(namespace: str, name: str) -> str:
    """The identifier of a model; without namespaces, `namespace` is empty."""
    return f"{namespace}{SEPARATOR}{name}" if namespace else name


def split(model: str, namespacing: bool) -> tuple[str, str]:
    """The namespace and the name of an identifier."""
    if not namespacing:
        return "", model
    namespace, _, name = model.rpartition(SEPARATOR)
    return namespace, name


def identifier_of(version: HostedVersion) -> str:
    """The identifier of the model of which this is a version."""
    return identifier(version.namespace, version.name)
