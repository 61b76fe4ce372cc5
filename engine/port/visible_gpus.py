"""Which of a machine's GPUs this process may use, and in which order: what CUDA_VISIBLE_DEVICES says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
_NUMBER: Final = re.compile(r"[+-]?[0-9]+")


def visible_gpus(uuids: Sequence[str], wanted: str | None) -> list[int]:
    """Indexes of `uuids`, in the order in which CUDA numbers those devices: of the variable's text, all for None.

    As CUDA reads it: numbers, or the beginnings of UUIDs that only one has; from the first entry on that names no
    device, or one for the second time, nothing counts. A slice of a GPU (MIG-...) stands for the whole and is alone.
    """
    if wanted is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in wanted.split(","):
        index = _index(entry.strip(), uuids)
        if index is None or index in found:
            break
        found.append(index)
        if entry.strip().startswith("MIG-"):
            break
    return found


def _index(entry: str, uuids: Sequence[str]) -> int | None:
    if _NUMBER.fullmatch(entry):
        return int(entry) if 0 <= int(entry) < len(uuids) else None
    if entry.startswith("MIG-"):
        # Older names have the GPU's UUID in them: MIG-GPU-<uuid>/<instance>/<slice>.
        whole = [index for index, uuid in enumerate(uuids) if uuid and uuid in entry]
        return whole[0] if whole else 0 if uuids else None
    matches = [index for index, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None
