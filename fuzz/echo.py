"""An engine for the doors under test: it answers every inference request with its inputs, at once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from despina.engine.observe.generation import Generation
from despina.engine.observe.trace_file import open_trace_file
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings
from despina.schema.inference import InferenceResponse, ResponseTemplate
from despina.schema.wire.generated.inference import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from despina.schema.inference import InferenceRequest

_TEMPLATES_MAX = 16


class EchoEngine:
    """The engine, and its only model, which serves under every name. Half of its answers, by their sizes, tell their
    form."""

    decoupled = False
    buffers = None
    shared_memory = None
    inline = None
    version_text = "1"
    name = "m"
    remembers = False

    def __init__(self) -> None:
        self.generation = Generation()
        self.tracer = Tracer(TraceSettings(), lambda name: True, open_trace_file, self.generation)
        self.config = ModelConfig(name="m", max_batch_size=8)
        self.labels: dict[str, list[str]] = {}
        self.templates: dict[Any, ResponseTemplate] = {}

    def is_live(self) -> bool:
        return True

    is_ready = is_live

    def model(self, name: str, version: int = -1) -> EchoEngine:
        return self

    def submit(self, request: InferenceRequest, on_done: Any, deadline: float = 0.0) -> EchoJob:
        job = EchoJob(request)
        job.response = self._answer(request)
        on_done(job)
        return job

    def submit_all(self, requests: Sequence[InferenceRequest], on_done: Any, refused: Any) -> list[EchoJob]:
        return [self.submit(request, on_done) for request in requests]

    def _answer(self, request: InferenceRequest) -> InferenceResponse:
        tensors = list(request.inputs.values())
        wires = [bytes(tensor.memory()) for tensor in tensors]
        if not tensors or sum(map(len, wires)) % 2:
            return InferenceResponse("m", "1", tensors, id=request.id)
        form = tuple((tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
        key = (form, tuple(map(len, wires)))
        if len(self.templates) >= _TEMPLATES_MAX:
            self.templates.clear()
        template = self.templates.setdefault(key, ResponseTemplate("m", "1", form))
        return template.response(request.id, wires)


class EchoJob:
    """Done before anybody sees it."""

    fault = None
    on_done = None

    def __init__(self, request: InferenceRequest) -> None:
        self.request = request
        self.response: InferenceResponse | None = None

    def cancel(self) -> None:
        """Nothing is left to cancel."""


class Entered:
    """Counts how often each short way was entered, so that a run can assert that it reached them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def watch(self, ways: Mapping[str, tuple[Any, str]]) -> None:
        """Counts by its name each way's calls that return something true. A way is a class or module, and the name of
        what is called there."""
        for name, (owner, method) in ways.items():
            self._watch(name, owner, method)

    def _watch(self, name: str, owner: Any, method: str) -> None:
        original = getattr(owner, method)

        def watched(*arguments: Any, **more: Any) -> Any:
            result = original(*arguments, **more)
            self._counts[name] += bool(result)
            return result

        setattr(owner, method, watched)

    def count(self, name: str) -> int:
        """Of one way."""
        return self._counts[name]

    def all_of(self, ways: Iterable[str]) -> bool:
        """Whether each was entered."""
        return all(self._counts[name] for name in ways)

    def check(self, ways: Iterable[str]) -> None:
        """Prints how often each was entered. Raises AssertionError for one that was not."""
        for name in ways:
            print(f"{name}: {self._counts[name]}")
            assert self._counts[name], f"{name}: never"
