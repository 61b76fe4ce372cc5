"""`despina serve`: models first, then the doors; on a signal the doors first, then the models (draining.py).

read options ▶ bind ports ▶ load models ▶ listen: gRPC, HTTP, metrics ▶ … signal … ▶ drain doors ▶ stop engine ▶ exit 0
     │ exit 1      │ exit 1      │ exit 1
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ...engine.engine import Engine
from ...engine.observe.trace_file import open_trace_file
from ...schema.fault import Fault, Unsupported
from ..access_log import AccessLog
from ..cycles import set_aside
from ..heap import HEAP
from ..tls import BadCertificate
from .activation import inherited_doors
from .banner import agents_table, backends_table, models_table, options_table
from .cloud_doors import cloud_starters
from .command_line import read_command_line
from .console import flush_console
from .draining import drain
from .forking import keep_from_children
from .help import USAGE, serve_help
from .listening import BadAddress, Door, PortTaken, bind_door
from .log_format import TABLE, configure_access_log, configure_logging
from .progress import loading_progress
from .reloading import Reloading
from .repositories import check_repositories
from .service_manager import ServiceManager
from .settings import BadSettings, settle
from .single_model import with_single_model
from .stopping import Stopping, signals_to_watch
from .waiting import say_what_loads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.port.settings import TraceSettings
    from ...engine.port.sink import TraceSink
    from .draining import Server
    from .settings import DoorSettings, ServeSettings

log = logging.getLogger("despina.serve")


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
    try:
        configure_access_log(settings.access_log)
    except OSError as error:
        return _refuse([f'Bad option: "--access-log".\n{settings.access_log.file}: {error.strerror}'])
    for warning in values.warnings:
        log.warning("%s", warning)
    for note in values.notes:
        log.info("%s", note)
    manager = ServiceManager.from_environment(os.environ)
    try:
        return trio.run(_serve, settings, Reloading(settings, log_file), manager)
    except* (Fault, PortTaken, BadAddress, BadCertificate) as group:
        for problem in _leaves(group):
            text = f"{problem.code_text} - {problem.message}" if isinstance(problem, Fault) else str(problem)
            said = f"error: creating server: {text}" if isinstance(problem, Fault) else text
            print(said, file=sys.stderr)
            manager.failed(said)
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


async def _serve(settings: ServeSettings, reloading: Reloading, manager: ServiceManager) -> int:
    """The server's whole life. Returns the exit code; raises what keeps it from starting."""
    with contextlib.ExitStack() as ports, trio.open_signal_receiver(*signals_to_watch()) as signals:
        settings = with_single_model(settings, ports)
        check_repositories(settings.engine.model_repository)
        _check_certificates(settings)
        doors = _bind_doors(settings.doors, ports)
        engine = Engine(settings.engine, open_traces=_trace_opener(settings.engine.trace))
        async with trio.open_nursery() as nursery:
            # A terminal that hangs up means the end, where a hang-up can mean nothing else.
            reload = reloading if reloading.has_work or not os.isatty(0) else None
            timeout_s = settings.engine.exit_timeout_secs + settings.doors.lame_duck_secs
            stopping = Stopping(timeout_s, manager.reloading(reload))
            nursery.start_soon(stopping.watch, signals)
            nursery.start_soon(manager.report, engine, stopping)
            if await _load(engine, settings, nursery, stopping):
                log.info("%s", options_table(settings, engine), extra=TABLE)
                servers = reloading.servers = await _open_doors(engine, settings, doors, nursery)
                manager.ready(engine)
                await stopping.asked.wait()
                await drain(engine, servers, stopping, settings.doors.lame_duck_secs)
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


async def _load(engine: Engine, settings: ServeSettings, nursery: trio.Nursery, stopping: Stopping) -> bool:
    """Loads the start-up models and shows what came of it. False when a signal came first."""
    try:
        async with trio.open_nursery() as beside:
            beside.start_soon(say_what_loads, engine, stopping)
            with loading_progress(settings), stopping.before as scope:
                await nursery.start(engine.run)
            beside.cancel_scope.cancel()
    finally:
        log.info("%s", agents_table(engine), extra=TABLE)
        log.info("%s", backends_table(engine), extra=TABLE)
        log.info("%s", models_table(engine), extra=TABLE)
    set_aside()
    # Reading models takes several times their size for a moment, on as many heaps as there were threads.
    HEAP.trim()
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
            reused = reuse.get(service, False)
            doors[service] = bind_door(service, address, port, reuse_port=reused, access=settings.access)
            ports.callback(doors[service].close)
            keep_from_children(doors[service].sockets)
    return doors


async def _open_doors(
    engine: Engine, settings: ServeSettings, doors: dict[str, Door], nursery: trio.Nursery
) -> dict[str, Server]:
    """Listens on every port, in the protocol's order, and says so."""
    starters = {}
    access_log = AccessLog(settings.access_log.rate) if settings.access_log.file else None
    if "GRPC" in doors:  # a door that stays closed is not imported
        from ..grpc import serve_grpc

        serve: Any = partial(serve_grpc, engine, settings.grpc, logs=settings.log, access_log=access_log)
        starters["GRPC"] = ("GRPCInferenceService", serve)
    if "HTTP" in doors:
        from ..http import serve_http

        serve = partial(serve_http, engine, settings.http, logs=settings.log, access_log=access_log)
        starters["HTTP"] = ("HTTPService", serve)
    starters |= cloud_starters(engine, settings, doors, access_log)
    if "metrics" in doors:
        from ..metrics import serve_metrics

        starters["metrics"] = ("Metrics Service", partial(serve_metrics, engine, settings.metrics))
    servers: dict[str, Server] = {}
    for service, (title, start) in starters.items():
        door = doors[service]
        place = door.place
        door.listen()
        servers[service] = await nursery.start(partial(start, sockets=door.sockets))
        log.info("Started %s at %s", title, place)
    return servers
