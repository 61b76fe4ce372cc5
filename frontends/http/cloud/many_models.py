"""SageMaker's many models behind one endpoint: it unpacks an archive, has it loaded under a name, invokes it by that
name, and has it unloaded when it wants the room.

    POST /models {"model_name": "<hash>", "url": "/opt/ml/models/<hash>/model"}    X-Amzn-SageMaker-Target-Model: NAME
         look_into ─▶ register the repository: NAME is its folder ─▶ load NAME ─▶ remember <hash>
    GET /models    GET, DELETE /models/<hash>    POST /models/<hash>/invoke
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import orjson
import trio

from ....engine.port.caller import Caller
from ....schema.fault import AlreadyExists, Fault
from ....schema.json_text import as_object, as_string, read_first
from ....schema.kserve_http_reply import encode_error
from ..request.request import TEXT
from .archives import look_into

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..handler.routes import Match
    from ..request.request import HttpRequest

logger = logging.getLogger("despina.http")

TARGET: Final = b"x-amzn-sagemaker-target-model"
UNLOAD_SECONDS_MAX: Final = 350.0
"""SageMaker gives up after 360."""
_LOOK_SECONDS: Final = (0.05, 10.0)
"""Between two looks whether a model has gone: at first, and at last."""
_WANT_OF_MEMORY: Final = (
    "CUDA out of memory",
    "CUDA_OUT_OF_MEMORY",
    "Out of memory",
    "Out Of Memory",
    "out of memory",
    "MemoryError",
    "OutOfMemory",
    "OOM",
    "Dst tensor is not initialized",
    "Src tensor is not initialized",
    "CNMEM_STATUS_OUT_OF_MEMORY",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "Failed to allocate memory",
    "failed to allocate memory",
    "No space left on device",
)


class RepositoryCaller(Caller, Protocol):
    """An engine that can be given more repositories, while it loads models by command."""

    async def register_model_repository(self, path: str, name_mapping: Mapping[str, str] | None = None) -> None: ...

    def unregister_model_repository(self, path: str) -> None: ...


@attrs.define(eq=False)
class LoadedModel:
    target: str
    """What the engine calls it."""
    repository: str
    is_leaving: bool = False


def is_want_of_memory(message: str) -> bool:
    """Whether an error tells of memory that ran out: SageMaker then unloads other models and asks again."""
    return any(words in message for words in _WANT_OF_MEMORY)


def status_of(message: str) -> int:
    """Of an error while a model is loaded or invoked."""
    return 507 if is_want_of_memory(message) else 400


class ManyModels:
    """Handlers of `/models`, and what was loaded by them."""

    def __init__(self, engine: RepositoryCaller) -> None:
        self._engine = engine
        self._models: dict[str, LoadedModel] = {}
        """By SageMaker's name."""
        self._loading: set[str] = set()

    def find(self, name: str) -> LoadedModel | None:
        return self._models.get(name)

    def list(self, request: HttpRequest, match: Match) -> None:
        """Those that serve."""
        shown = [
            _shown(name, model) for name, model in self._models.items() if self._engine.is_model_ready(model.target)
        ]
        request.reply(200, TEXT, [orjson.dumps({"models": shown})])

    def show(self, request: HttpRequest, match: Match) -> None:
        model = self._models.get(match.model)
        if model is None:
            request.reply(404)
        else:
            request.reply(200, TEXT, [orjson.dumps(_shown(match.model, model))])

    async def load(self, request: HttpRequest, match: Match) -> None:
        """Answers when the model serves, or has failed to. A client that leaves does not stop it."""
        target = request.headers.get(TARGET, b"").decode("utf-8", "replace")
        try:
            asked = as_object(read_first(request.body)) if len(request.body) else {}
            name = as_string(asked.get("model_name", ""))
            url = as_string(asked.get("url", ""))
            target = target or name
            logger.info("Loading SageMaker TargetModel: %s", target)
            archive = await trio.to_thread.run_sync(look_into, url)
            await self._engine.register_model_repository(archive.repository, {target: archive.folder})
            if name in self._models or name in self._loading:  # of another target
                self._engine.unregister_model_repository(archive.repository)
                raise AlreadyExists(f"model '{name}' has already been loaded")
        except AlreadyExists as fault:
            request.reply(409, TEXT, [encode_error(fault.message)])
            return
        except Fault as fault:
            request.reply(400, TEXT, [encode_error(fault.message)])
            return
        self._loading.add(name)
        try:
            await self._engine.load(target)
        except BaseException as problem:
            self._engine.unregister_model_repository(archive.repository)
            if not isinstance(problem, Fault):
                raise
            request.reply(status_of(problem.message), TEXT, [encode_error(problem.message)])
            return
        finally:
            self._loading.discard(name)
        self._models[name] = LoadedModel(target, archive.repository)
        request.reply(200)

    async def unload(self, request: HttpRequest, match: Match) -> None:
        """Answers when nothing of the model is left, or after UNLOAD_SECONDS_MAX."""
        model = self._models.get(match.model)
        if model is None or model.is_leaving:
            request.reply(404)
            return
        logger.info("Unloading SageMaker TargetModel: %s", model.target)
        model.is_leaving = True
        try:
            await self._engine.unload(model.target, unload_dependents=True)
            await self._wait_until_gone(model)
        except Fault as fault:
            request.reply(400, TEXT, [encode_error(fault.message)])
            return
        finally:
            model.is_leaving = False
        del self._models[match.model]
        try:
            self._engine.unregister_model_repository(model.repository)
        except Fault as fault:
            request.reply(400, TEXT, [encode_error(fault.message)])
            return
        request.reply(200)

    async def _wait_until_gone(self, model: LoadedModel) -> None:
        pause, pause_max = _LOOK_SECONDS
        with trio.move_on_after(UNLOAD_SECONDS_MAX):
            while True:
                versions = [version for version in await self._engine.index() if version.name == model.target]
                if all(version.state in ("", "UNAVAILABLE") for version in versions):
                    return
                await trio.sleep(pause)
                pause = min(pause * 1.5, pause_max)
        logger.error("SageMaker TargetModel %s has not gone within %g s", model.target, UNLOAD_SECONDS_MAX)


def _shown(name: str, model: LoadedModel) -> dict[str, str]:
    return {"modelName": name, "modelUrl": model.repository}
