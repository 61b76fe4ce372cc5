"""Binds the calling thread to what a host policy says: cores to run on, a node for its memory. Threads that it starts
inherit both, so it is done before a framework opens a model there."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ...schema.fault import Internal, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .host_policy import HostPolicy

_DEFAULT: Final = 0
_BIND: Final = 2
_SET_MEMPOLICY: Final = {"x86_64": 238, "aarch64": 237}
"""The number of the system call; it has no function in every C library."""
NODES_MAX: Final = 1024
CORES_MAX: Final = 65_536
"""More are not looked for: no kernel has them."""


def bind(policy: HostPolicy) -> None:
    """Raises InvalidArgument for values that mean nothing, and Internal for what the machine does not have."""
    node = _number("numa-node", policy.numa_node) if policy.numa_node else None
    cores = _cores(policy.cpu_cores) if policy.cpu_cores else None
    if node is not None:
        _bind_memory(node)
    if cores is not None:
        try:
            os.sched_setaffinity(0, cores)
        except (OSError, OverflowError, AttributeError) as error:
            raise Internal(f"Unable to set NUMA thread affinity: {_reason(error)}") from error


@contextmanager
def bound(policy: HostPolicy) -> Iterator[None]:
    """The same for the length of a block, in which a process is started: it inherits both, and stays bound."""
    if not policy.binds:
        yield
        return
    cores = os.sched_getaffinity(0)
    try:
        bind(policy)
        yield
    finally:
        os.sched_setaffinity(0, cores)
        number = _SET_MEMPOLICY.get(platform.machine())
        if policy.numa_node and number is not None:
            ctypes.CDLL(None).syscall(number, _DEFAULT, None, 0)


def _cores(text: str) -> range:
    first, dash, last = text.partition("-")
    if not dash:
        raise InvalidArgument(
            f"host policy setting 'cpu-cores' format is '<lower_cpu_core_id>-<upper_cpu_core_id>'. Got {text}"
        )
    return range(_number("cpu-cores", first), min(_number("cpu-cores", last), CORES_MAX - 1) + 1)


def _number(setting: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidArgument(f"Parsing '{setting}' value: Can't parse '{text}' to integer")
    return int(text)


def _bind_memory(node: int) -> None:
    number = _SET_MEMPOLICY.get(platform.machine())
    if number is None or platform.system() != "Linux" or node >= NODES_MAX:
        raise Internal(f"Unable to set NUMA memory policy: there is no node {node} that could be chosen")
    mask = (1 << node).to_bytes(NODES_MAX // 8, "little")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _BIND, mask, NODES_MAX + 1) != 0:
        raise Internal(f"Unable to set NUMA memory policy: {os.strerror(ctypes.get_errno())}")


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
