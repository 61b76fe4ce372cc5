"""Traces as files of JSON arrays, in the protocol's format. Everything here runs on the trace worker's thread.

traces of one setting ─┬─ log_frequency N: `<file>.<n>` for every N of them, and for the rest at its end
                       ├─ its count used up: `<file>.<n>` at once
                       └─ else: appended to `<file>` at its end, or when too much of it waits
"""

from __future__ import annotations

import json
import logging
from typing import IO, TYPE_CHECKING

import numpy as np

from ...schema.datatype import BY_NAME
from ...schema.tensor import decode_bytes
from ..port.sink import BatchFacts
from .tracing import MODEL_KNOWN

if TYPE_CHECKING:
    from ..port.settings import TraceSettings
    from ..port.sink import CapturedTensor, FinishedTrace, TraceGroup

log = logging.getLogger("despina.engine.trace")

BUFFERED_BYTES_MAX = 64 * 1024 * 1024
"""What may wait for the end of a setting. The reference server has no bound."""


def open_trace_file(settings: TraceSettings) -> TraceFile:
    """Where traces go by default. Raises ValueError for OpenTelemetry mode, which needs an exporter."""
    if settings.mode != "triton":
        raise ValueError(f"trace mode {settings.mode} needs an exporter, see `open_traces`")
    return TraceFile(settings.file)


class TraceFile:
    """A sink for one file name and the numbered ones beside it. Files are made anew when the server starts."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._index = 0
        self._main: IO[str] | None = None
        self._waiting: dict[TraceGroup, list[str]] = {}
        """Per setting, one text for each trace."""
        self._waiting_bytes = 0

    def take(self, finished: FinishedTrace) -> None:
        setting = finished.setting
        text = objects_of(finished)
        if not text:
            return
        waiting = self._waiting.setdefault(setting, [])
        waiting.append(text)
        self._waiting_bytes += len(text)
        if finished.is_last or 0 < setting.log_frequency <= len(waiting):
            self._write(setting, numbered=True)
        elif self._waiting_bytes > BUFFERED_BYTES_MAX:
            self._write(setting, numbered=setting.log_frequency > 0)

    def retire(self, setting: TraceGroup) -> None:
        self._write(setting, numbered=setting.log_frequency > 0)

    def close(self) -> None:
        for setting in list(self._waiting):
            self.retire(setting)
        if self._main is not None:
            try:
                self._main.write("]")
                self._main.close()
            except OSError as error:
                log.error("cannot end %s: %s", self._path, error.strerror or error)

    def _write(self, setting: TraceGroup, *, numbered: bool) -> None:
        texts = self._waiting.pop(setting, [])
        self._waiting_bytes -= sum(map(len, texts))
        if not texts:
            return
        try:
            if numbered:
                path = f"{self._path}.{self._index}"
                self._index += 1
                with open(path, "w", encoding="utf-8") as file:
                    file.write("[" + ",".join(texts) + "]")
                return
            if self._main is None:
                self._main = open(self._path, "w", encoding="utf-8")  # noqa: SIM115  # open until the server stops
                self._main.write("[")
            else:
                self._main.write(",")
            self._main.write(",".join(texts))
            self._main.flush()
        except OSError as error:
            log.error("cannot write %d traces to %s: %s", len(texts), self._path, error.strerror or error)


def objects_of(finished: FinishedTrace) -> str:
    """The JSON objects of one trace, one for each note, between commas; those of its children first."""
    return ",".join(filter(None, [*map(objects_of, finished.children), own_objects_of(finished)]))


def own_objects_of(finished: FinishedTrace) -> str:
    """Without those of its children."""
    trace = finished.trace
    objects: list[dict[str, object]] = []
    batch: dict[str, object] = {}
    for note in finished.notes:
        if isinstance(note, BatchFacts):
            batch = {"batch": {"rows": note.rows, "requests": note.requests, "reason": note.reason}}
        elif isinstance(note, tuple):
            name, ns = note
            if name == MODEL_KNOWN:
                about: dict[str, object] = {
                    "id": trace.id,
                    "model_name": trace.model_name,
                    "model_version": trace.model_version,
                }
                if trace.request_id:
                    about["request_id"] = trace.request_id
                if trace.parent_id:
                    about["parent_id"] = trace.parent_id
                objects.append(about)
            else:
                # The batch is told beside its first moment, where readers of the protocol's format pass it over.
                objects.append({"id": trace.id, "timestamps": [{"name": name, "ns": ns}], **batch})
                batch = {}
        else:
            tensor = {
                "name": note.name,
                "data": data_text(note),
                "shape": ",".join(map(str, note.shape)),
                "dtype": note.datatype,
            }
            objects.append({"id": trace.id, "activity": note.activity, "tensor": tensor})
    return ",".join(json.dumps(one, separators=(",", ":"), ensure_ascii=False) for one in objects)


def data_text(tensor: CapturedTensor) -> str:
    """The elements between commas: BYTES in quotes, floating-point numbers with six digits, nothing for half precision
    and for bytes that are not the elements of their datatype."""
    kind = BY_NAME.get(tensor.datatype)
    if tensor.datatype == "BYTES":
        try:
            items = decode_bytes(tensor.memory, tensor.name)
        except Exception:
            return ""
        return ",".join(f'"{item.decode("utf-8", "replace")}"' for item in items)
    if kind is None or tensor.datatype in ("FP16", "BF16") or len(tensor.memory) % kind.byte_size:
        return ""
    values = np.frombuffer(tensor.memory, kind.dtype).tolist()
    if tensor.datatype in ("FP32", "FP64"):
        return ",".join([f"{value:g}" for value in values])
    return ",".join([str(int(value)) for value in values])
