"""Restricted APIs: which categories there are, and how an option says which of them ask for a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Category = Literal[
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
]
"""What the options call an API."""

CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)

GRPC_KEY_PREFIX: Final = "triton-grpc-protocol-"
"""What the key of the gRPC option is called in metadata."""


def read_restrictions(
    texts: Iterable[str], option: str, complaints: list[str], *, prefix: str = ""
) -> dict[str, tuple[bytes, bytes]]:
    """`<apis>:<key>=<value>` texts as one table: category to the header's name, `prefix` in front, as it was written,
    and the value that it must have. What is wrong is added to `complaints`, in the protocol's words if it has any."""
    restricted: dict[str, tuple[bytes, bytes]] = {}
    for text in texts:
        names, colon, secret = text.partition(":")
        key, equals, value = secret.partition("=")
        if not (names and colon and key and equals):
            complaints.append(f"--{option} option format is '<apis>:<key>=<value>'. Got {text}")
            continue
        for name in names.split(","):
            if name not in CATEGORIES:
                complaints.append(f"unknown restricted api '{name}'")
            elif name in restricted:
                complaints.append(f"restricted api '{name}' can not be specified in multiple config groups")
            else:
                restricted[name] = ((prefix + key).encode(), value.encode())
    return restricted


def by_path(restricted: Mapping[str, tuple[bytes, bytes]]) -> dict[str, tuple[str, str]]:
    """gRPC path -> the metadata key, as it was written, and the value that its calls must carry."""
    return {
        path: (key.decode(), value.decode())
        for category, (key, value) in restricted.items()
        for path in _GRPC_PATHS.get(category, ())
    }


def _rpcs(*names: str) -> tuple[str, ...]:
    return tuple(f"/inference.GRPCInferenceService/{name}" for name in names)


_GRPC_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "health": (
        *_rpcs("ServerLive", "ServerReady", "ModelReady"),
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ),
    "metadata": _rpcs("ServerMetadata", "ModelMetadata"),
    "inference": _rpcs("ModelInfer", "ModelStreamInfer"),
    "shared-memory": _rpcs(
        *(f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister"))
    ),
    "model-config": _rpcs("ModelConfig"),
    "model-repository": _rpcs("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    "statistics": _rpcs("ModelStatistics"),
    "trace": _rpcs("TraceSetting"),
    "logging": _rpcs("LogSettings"),
}
