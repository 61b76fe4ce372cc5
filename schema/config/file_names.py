"""Which names of files a configuration may have: what it names is read, or executed, below the model's directory."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ..fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..wire.generated.inference import ModelConfig


def validate_file_names(config: ModelConfig) -> None:
    """Refuses the first name of a file that is absolute or has `..` in it, wherever that leads. Links are followed:
    they are the work of whoever keeps the directory, a name may come from a client.

    Label files are not looked at: who reads them has the protocol's own words.
    """
    for field, name in _file_names(config):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise InvalidArgument(
                f"model '{config.name}', {field}: expected a relative path without '..', which stays within the "
                f"model's directory, got '{name}'"
            )


def _file_names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Field and name. Paths of accelerators' caches and plug-ins are not among them: no file of the model's."""
    yield "default_model_filename", config.default_model_filename
    yield "runtime", config.runtime
    for capability, name in config.cc_model_filenames.items():
        yield f"cc_model_filenames['{capability}']", name
    if config.model_operations is not None:
        for name in config.model_operations.op_library_filename:
            yield "model_operations.op_library_filename", name
    for sample in config.model_warmup:
        for tensor, data in sample.inputs.items():
            yield f"model_warmup '{sample.name}', input_data_file of '{tensor}'", data.input_data_file or ""
    if config.sequence_batching is not None:
        for state in config.sequence_batching.state:
            for initial in state.initial_state:
                yield f"initial_state '{initial.name}', data_file", initial.data_file or ""
