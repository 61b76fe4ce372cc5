"""`despina serve`: models first, then the doors; on a signal the doors first, then the models.

read options ▶ bind ports ▶ load models ▶ listen: gRPC, HTTP, metrics ▶ … signal … ▶ drain doors ▶ stop engine ▶ exit 0
     │ exit 1      │ exit 1      │ exit 1
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from ...engine.engine import Engine
from ...engine.observe.trace_file import open_trace_file
from ...engine.repository.locations import cloud_location
from ...engine.repository.objects import check_installed
from ...schema.fault import Fault, Internal, InvalidArgument, Unsupported
from ..tls import BadCertificate
from .activation import inherited_doors
from .banner import agents_table, backends_table, models_table, options_table
from .command_line import read_command_line
from .console import flush_console
from .forking import keep_from_children
from .help import USAGE, serve_help
from .listening import BadAddress, Door, PortTaken, bind_door
from .log_format import TABLE, configure_logging
from .progress import loading_progress
from .settings import BadSettings, settle
from .stopping import Stopping, signals_to_watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.port.settings import TraceSettings
    from ...engine.port.sink import TraceSink
    from .settings import DoorSettings, ServeSettings

log = logging.getLogger("despina.serve")

GC_OBJECTS = 50_000
"""How many new objects make the collector look for cycles among them."""


class Server(Protocol):
    """What every door's serve function starts with."""

    def stop_accepting(self) -> None: ...

    async def drain(self, deadline: float) -> None: ...


def serve(arguments: Sequence[str]) -> int:
    """Runs the server until a signal; gives the exit code. Complaints go to stderr, all at once."""
    values = read_command_line(arguments, os.environ)
    if values.wants_help:
        print(serve_help())
        return 0
    try:
        settings = settle(values)
        log_file = configure_logging(settings.log)
    except BadSettings as bad:
        return _refuse(bad.complaints)
    except OSError as error:
        return _refuse([f'Bad option: "--log-file".\n{settings.log.file}: {error.strerror}'])
    for warning in values.warnings:
        log.warning("%s", warning)
    for note in values.notes:
        log.info("%s", note)
    try:
        return trio.run(_serve, settings, log_file.reopen if log_file else None)
    except* (Fault, PortTaken, BadAddress, BadCertificate) as group:
        for problem in _leaves(group):
            text = f"{problem.code_text} - {problem.message}" if isinstance(problem, Fault) else str(problem)
            print(f"error: creating server: {text}" if isinstance(problem, Fault) else text, file=sys.stderr)
    finally:
        flush_console()
    return 1


def _refuse(complaints: Sequence[str]) -> int:
    print(USAGE, *complaints, sep="\n\n", file=sys.stderr)
    return 1


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for problem in group.exceptions:
        found.extend(_leaves(problem) if isinstance(problem, BaseExceptionGroup) else [problem])
    return found


async def _serve(settings: ServeSettings, reopen_log: Callable[[], None] | None) -> int:
    """The server's whole life. Returns the exit code; raises what keeps it from starting."""
    with contextlib.ExitStack() as ports, trio.open_signal_receiver(*signals_to_watch()) as signals:
        _check_repositories(settings.engine.model_repository)
        _check_certificates(settings)
        doors = _bind_doors(settings.doors, ports)
        engine = Engine(settings.engine, open_traces=_trace_opener(settings.engine.trace))
        async with trio.open_nursery() as nursery:
            stopping = Stopping(settings.engine.exit_timeout_secs, reopen_log)
            nursery.start_soon(stopping.watch, signals)
            if await _load(engine, settings, nursery, stopping):
                log.info("%s", options_table(settings, engine), extra=TABLE)
                servers = await _open_doors(engine, settings, doors, nursery)
                await stopping.asked.wait()
                await _stop(engine, servers, stopping)
            nursery.cancel_scope.cancel()
    return stopping.exit_code


def _trace_opener(trace: TraceSettings) -> Callable[[TraceSettings], TraceSink]:
    """What opens the place where traces go. Raises Unsupported without the package that OpenTelemetry mode needs."""
    if trace.mode == "triton":
        if trace.level and not trace.file:
            log.warning("nothing is traced: the trace file is not given (--trace-config=triton,file=PATH)")
        return open_trace_file
    if "TENSORS" in trace.level:
        log.error("trace level TENSORS is not supported in OpenTelemetry mode")
    try:
        from ..otel import open_exporter
    except ImportError as problem:
        raise Unsupported(f"trace mode opentelemetry needs `pip install 'despina[otel]'`: {problem}") from problem
    return open_exporter


def _check_repositories(paths: Sequence[str]) -> None:
    for path in paths:
        try:
            cloud = cloud_location(path)
        except ValueError as error:
            raise InvalidArgument(f"model repository {path}: {error}") from error
        if cloud is not None:
            check_installed(cloud)
            continue
        path = path.removeprefix("file://")
        if not os.path.exists(path):
            raise Internal(f"failed to stat file {path}")
        if not os.path.isdir(path):
            raise Internal(f"model repository {path} is not a directory")


async def _load(engine: Engine, settings: ServeSettings, nursery: trio.Nursery, stopping: Stopping) -> bool:
    """Loads the start-up models and shows what came of it. False when a signal came first."""
    try:
        with loading_progress(settings), stopping.before as scope:
            await nursery.start(engine.run)
    finally:
        log.info("%s", agents_table(engine), extra=TABLE)
        log.info("%s", backends_table(engine), extra=TABLE)
        log.info("%s", models_table(engine), extra=TABLE)
    # What was made on the way here stays for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # Requests leave no cycles behind, so looking for some after every 700 objects is work for nothing.
    gc.set_threshold(GC_OBJECTS, 20, 50)
    return not scope.cancelled_caught


def _check_certificates(settings: ServeSettings) -> None:
    """Finds wrong files before the models load. Raises BadCertificate."""
    for tls in (settings.http.tls, settings.grpc.tls):
        if tls is not None:
            tls.open_context(())


def _bind_doors(settings: DoorSettings, ports: contextlib.ExitStack) -> dict[str, Door]:
    """Takes the sockets that were passed on to the process and binds the others."""
    reuse = {"HTTP": settings.reuse_http_port, "GRPC": settings.reuse_grpc_port}
    wanted = list(settings.open_doors())
    doors = inherited_doors([service for service, _, _ in wanted], os.environ)
    for door in doors.values():
        ports.callback(door.close)
        keep_from_children(door.sockets)
    for service, address, port in wanted:
        if service not in doors:
            doors[service] = bind_door(service, address, port, reuse_port=reuse.get(service, False))
            ports.callback(doors[service].close)
            keep_from_children(doors[service].sockets)
    return doors


async def _open_doors(
    engine: Engine, settings: ServeSettings, doors: dict[str, Door], nursery: trio.Nursery
) -> list[Server]:
    """Listens on every port, in the protocol's order, and says so."""
    starters = {}
    if "GRPC" in doors:  # a door that stays closed is not imported
        from ..grpc import serve_grpc

        starters["GRPC"] = ("GRPCInferenceService", partial(serve_grpc, engine, settings.grpc, logs=settings.log))
    if "HTTP" in doors:
        from ..http import serve_http

        starters["HTTP"] = ("HTTPService", partial(serve_http, engine, settings.http, logs=settings.log))
    if "metrics" in doors:
        from ..metrics import serve_metrics

        starters["metrics"] = ("Metrics Service", partial(serve_metrics, engine, settings.metrics))
    servers: list[Server] = []
    for service, (title, start) in starters.items():
        door = doors[service]
        place = door.place
        door.listen()
        servers.append(await nursery.start(partial(start, sockets=door.sockets)))
        log.info("Started %s at %s", title, place)
    return servers


async def _stop(engine: Engine, servers: Sequence[Server], stopping: Stopping) -> None:
    """Closes the doors, answers what is in flight, then unloads the models."""
    log.info("Waiting for in-flight requests to complete.")
    for server in servers:
        server.stop_accepting()
    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(server.drain, stopping.deadline)
    log.info("All doors are closed, unloading models")
    try:
        await engine.stop()
    except Fault as fault:
        stopping.fail(fault.message)
