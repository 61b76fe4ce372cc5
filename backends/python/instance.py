"""One `TritonPythonModel` object and the rules for what its methods may do.

Everything that a model raises stays here: it becomes the fault of the batch, or of loading, and a traceback in the log.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...schema.fault import Fault, Internal, ModelFailure, ShuttingDown
from .decoupled import DecoupledRequest
from .event_loop import BackgroundLoop, ThreadLoop
from .failure import failure_text
from .memory import executing
from .model_config import ModelConfig
from .nested import Asker, going_on
from .request import ReceivedRequest
from .response import InferenceResponse, unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ...engine.port.nested import NestedCaller
    from ...engine.port.work import BackendStream, Batch
    from .modules import Imports

_log = logging.getLogger("despina.backends.python")

_MUST_RETURN_NONE: Final = "Python model '{}' is using the decoupled mode and the execute function must return None."


class UserModel:
    """The class `TritonPythonModel` of one model file."""

    def __init__(self, name: str, version: int, file: Path, imports: Imports, roots: tuple[str, ...]) -> None:
        """`roots` are the model's directories. Raises Internal, with the model's own exception as text, where the file
        cannot be executed."""
        self.name = name
        self.file = file
        self.roots = roots
        self.imports = imports
        try:
            with self.failing_as_internal(f"model '{name}': loading {file} failed"):
                module = self.imports.load(file)
            found = getattr(module, "TritonPythonModel", None)
            if found is None:
                raise Internal(f"AttributeError: module '{version}.{file.stem}' has no attribute 'TritonPythonModel'")
        except BaseException:
            self.imports.close()
            raise
        self.model_class: Any = found

    def complete(self, config: ModelConfig) -> ModelConfig | None:
        """What `auto_complete_config` makes of it; None for a model without one. Closes the model's modules."""
        try:
            function = getattr(self.model_class, "auto_complete_config", None)
            if function is None:
                return None
            with self.failing_as_internal(f"model '{self.name}': auto_complete_config failed"):
                completed = function(config)
            if not isinstance(completed, ModelConfig):
                raise Internal(
                    f"auto_complete_config function in model '{self.name}' must return a valid pb.ModelConfig object."
                )
            return completed
        finally:
            self.imports.close()

    def failing_as_internal(self, what: str) -> _FailingAsInternal:
        return _FailingAsInternal(self.roots, what)


class _FailingAsInternal:
    """Renames what a model raises while it loads, SystemExit included, and logs the traceback."""

    def __init__(self, roots: tuple[str, ...], what: str) -> None:
        self._roots = roots
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not _is_ours(error):
            _log.error("%s", self._what, exc_info=error)
            raise Internal(failure_text(error, self._roots)) from error


class PythonInstance:
    """Calls `execute` with one request object per job. Calls never overlap."""

    def __init__(
        self,
        name: str,
        load: Callable[[], UserModel],
        *,
        arguments: dict[str, str],
        output_names: Sequence[str],
        decoupled: bool,
        iterative: bool,
        movable: bool,
        nested: NestedCaller | None,
    ) -> None:
        """Loads the model's file and initializes the model with `arguments`. Raises Internal with what it raised.
        `nested` is what the model may ask other models with."""
        self.name = name
        self.movable = movable
        self._decoupled = decoupled
        self._iterative = iterative
        self._output_names = output_names
        self._coroutines: BackgroundLoop | None = None
        """Of a decoupled model whose `execute` is a coroutine."""
        self._loop = ThreadLoop()
        try:
            self._user = load()
            asker = None if nested is None else Asker(nested, self._user.name, name, inline=movable)
            self._user.imports.asker = asker
            try:
                with self._user.failing_as_internal(f"model instance '{self.name}': initialize failed"):
                    self._model = self._user.model_class()
                    if not hasattr(self._model, "execute"):
                        raise Internal(f"Python model {self._user.file} does not implement `execute` method.")
                    if hasattr(self._model, "initialize"):
                        self._model.initialize(arguments)
                self._execute = self._model.execute
                self.ready = self._says_ready if hasattr(self._model, "is_ready") else None
                if asker is not None:
                    asker.executes = True
                self._asker = asker
            except BaseException:
                self._user.imports.close()
                if asker is not None:
                    asker.close()
                raise
        except BaseException:
            self._loop.close()
            raise

    def _says_ready(self) -> bool:
        """What the model's `is_ready` says; False, and logged, for what is no answer."""
        try:
            said = self._model.is_ready()
            if inspect.iscoroutine(said):
                said = asyncio.run(said) if self._coroutines is None else self._coroutines.finish(said)
            if not isinstance(said, bool):
                raise TypeError("is_ready() must return a boolean value")
            return said
        except BaseException as error:  # as in execute
            if _is_ours(error):
                raise
            _log.error("model instance '%s': is_ready failed", self.name, exc_info=error)
            return False

    def execute(self, batch: Batch) -> None:
        if self._decoupled:
            self._execute_decoupled(batch)
            return
        output_names = self._output_names
        executing.requests = requests = [ReceivedRequest(job, output_names) for job in batch.jobs]
        try:
            responses = self._execute(requests)
            if inspect.iscoroutine(responses):
                responses = self._loop.run(responses)
            self._answer(requests, responses)
        except BaseException as error:  # a model may raise anything, SystemExit too; none of it may end the server
            told = self._told(error)
            if told is error:
                raise
            raise told from error
        finally:
            executing.requests = ()
            for request in requests:
                request.released = True

    def _execute_decoupled(self, batch: Batch) -> None:
        """Returns when `execute` does; requests that it has not finished go on, and so does its coroutine."""
        jobs: list[BackendStream] = batch.jobs  # type: ignore[assignment]  # decoupled models get no others
        requests = [DecoupledRequest(job, self._output_names, self.name) for job in jobs]
        executing.requests = requests
        try:
            returned = self._execute(requests)
            if inspect.iscoroutine(returned):
                going_on.set(jobs)
                self._background().start(returned, partial(self._background_done, requests, jobs))
                going_on.set(())
            elif returned is not None:
                raise self._failure(_MUST_RETURN_NONE.format(self.name))
        except BaseException as error:  # as above
            for request in requests:
                request.let_sender_go()  # they fail with this error
            told = self._told(error)
            if told is error:
                raise
            raise told from error
        finally:
            executing.requests = ()
            for request in requests:
                request.released = True

    def _background_done(
        self, requests: list[DecoupledRequest], jobs: list[BackendStream], returned: object, error: BaseException | None
    ) -> None:
        """A coroutine has ended. Without an error its requests may still be open: it has given their senders away."""
        fault: Fault
        if isinstance(error, asyncio.CancelledError):
            fault = ShuttingDown("the model was unloaded while it executed")
        elif error is not None:
            told = self._told(error)
            fault = told if isinstance(told, Fault) else self._failure(str(told))
        elif returned is not None:
            fault = self._failure(_MUST_RETURN_NONE.format(self.name))
        else:
            return
        for job in jobs:
            job.close(fault)

    def close(self) -> None:
        """Calls `finalize`, whose errors are only logged."""
        self._user.imports.asker = None
        try:
            finalize = getattr(self._model, "finalize", None)
            if finalize is not None:
                result = finalize()
                if inspect.iscoroutine(result):
                    self._loop.run(result) if self._coroutines is None else self._coroutines.finish(result)
        except BaseException as error:  # as in execute
            if _is_ours(error):
                raise
            _log.error("model instance '%s': finalize failed", self.name, exc_info=error)
        finally:
            if self._coroutines is not None:
                self._coroutines.close()
                self._coroutines = None
            self._loop.close()
            self._model = self._execute = None
            self._user.imports.close()
            if self._asker is not None:
                self._asker.close()

    def _answer(self, requests: list[ReceivedRequest], responses: object) -> None:
        """Checks the whole list before the first answer, so that a violation spoils all of the batch or nothing."""
        if responses is not None:
            if not isinstance(responses, list):
                raise self._failure(f"Expected a list in the execute return, found type '{type(responses)}'.")
            if len(responses) != len(requests):
                raise self._failure(
                    "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                    f"InferenceRequest(s) size is:{len(requests)}, and InferenceResponse(s) size is:{len(responses)}\n"
                )
            for response in responses:
                if response is not None and not isinstance(response, InferenceResponse):
                    raise self._failure(
                        "Expected an 'InferenceResponse' object in the execute function return list, found type "
                        f"'{type(response)}'."
                    )
            if self._iterative:
                self._check_rescheduled(requests, responses)
        else:
            responses = [None] * len(requests)
        output_names = self._output_names
        for index, request in enumerate(requests):
            response = responses[index]
            job = request.job
            if job.response is not None or job.fault is not None:
                continue  # answered through its sender, and the first answer stands
            if response is None:
                comes = job.again or request.comes_later(self.name)
                if not comes and job.response is None and job.fault is None:
                    job.fail(unanswered(self.name))
                continue
            try:
                response.answer(request, output_names)
            except Exception as error:  # an input's array, passed on, in which the model has left what is no string
                job.fail(self._failure(failure_text(error, self._user.roots)))

    def _check_rescheduled(self, requests: list[ReceivedRequest], responses: list[InferenceResponse | None]) -> None:
        for request, response in zip(requests, responses, strict=True):
            if request.job.again and response is not None:
                raise self._failure(
                    "Expected a None object in the execute function return list for reschduled request, found type "
                    f"'{type(response)}'."
                )

    def _told(self, error: BaseException) -> BaseException:
        """What the engine is told of an exception out of `execute`; the traceback is logged."""
        if isinstance(error, ModelFailure) or _is_ours(error):
            return error
        _log.error("model instance '%s': execute failed", self.name, exc_info=error)
        return self._failure(failure_text(error, self._user.roots))

    def _failure(self, text: str) -> ModelFailure:
        return ModelFailure(f"Failed to process the request(s) for model '{self.name}', message: {text}")

    def _background(self) -> BackgroundLoop:
        if self._coroutines is None:
            self._coroutines = BackgroundLoop(self.name)
        return self._coroutines


def _is_ours(error: BaseException) -> bool:
    """True for Internal that this module raised, and for a Ctrl-C that was meant for the server, not the model."""
    if type(error) is Internal:
        return True
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
