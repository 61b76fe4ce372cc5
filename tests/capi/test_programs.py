"""The C API as C programs use it. What each program does stands in it; the library finds its Python by itself."""

from __future__ import annotations

from tests.capi.compiling import MODELS


def test_inference_and_what_is_refused(compiled, run_program):
    """Goal: responses are right byte for byte; what cannot be accepted fails at once, in the core's words, and stays
    the caller's; a failing allocation costs its own request only; labels, parameters and raw inputs come through."""
    run_program(compiled("infer"), MODELS)


def test_descriptions_commands_and_metrics(compiled, run_program):
    """Goal: health, metadata, configuration, statistics, index, loads with files of the caller's, repositories, custom
    metrics, log lines, stopping."""
    said = run_program(compiled("control"), MODELS)
    assert r'control.c:7] "a warning of the \"application\""' in said


def test_requests_in_flight(compiled, run_program):
    """Goal: 64 at one time, of one form and of many, while their model is loaded anew; streams with back-pressure,
    cancelled ones, traced ones, callbacks that ask the server, and a server deleted under its requests: each has one
    end and one release, and no buffer is left."""
    run_program(compiled("flight"), MODELS)


def test_life_of_servers(compiled, run_program, native):
    """Goal: loaded for itself alone (RTLD_LOCAL), two servers, again after a deletion, refused in a forked child;
    signal handlers and masks of the program stay as they are."""
    run_program(compiled("life"), native / "lib" / "libtritonserver.so", MODELS)
