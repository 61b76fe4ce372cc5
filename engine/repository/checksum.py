"""The built-in agent `checksum`: a model is loaded only if its files are those that its configuration says.

agents [ { name: "checksum" parameters { key: "MD5:1/model.onnx" value: "<32 hex digits>" } } ]
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ...schema.fault import Internal, InvalidArgument, Unsupported
from ..port.agent import AgentAction

if TYPE_CHECKING:
    from ..port.agent import AgentModel

_ALGORITHM = "MD5"


class ChecksumAgent:
    """One parameter per file: the algorithm, a colon, the path below the model's directory. Keeps nothing."""

    def act(self, action: AgentAction, model: AgentModel) -> None:
        """Raises InvalidArgument, Unsupported, Internal in the words of Triton's agent. In LOAD only."""
        if action is not AgentAction.LOAD:
            return
        for key, expected in sorted(model.parameters.items()):
            algorithm, colon, relative = key.partition(":")
            if not colon:
                raise InvalidArgument(f"failed to parse key: {key}")
            if algorithm.upper() != _ALGORITHM:
                raise Unsupported(f"Unsupported checksum algorithm: {algorithm}")
            path = model.location / relative
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            except (OSError, ValueError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or str(error)
                raise Internal(f"failed to open text file for read {path}: {why}") from error
            if found != expected:
                raise InvalidArgument(f"Mismatched MD5 hash for file {path}, expect: {expected}, got: {found}")
