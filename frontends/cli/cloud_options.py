"""The options of SageMaker's and Vertex AI's doors, and what these services say by the environment.

Their variables are the weakest source: an option of the same meaning wins wherever it is given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .listening import UNIX
from .option import Option, boolean, choice, integer, port, regular_expression, string

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .command_line import Values
    from .settings import DoorSettings


def port_range(text: str) -> str:
    """`first-last`, both ports."""
    found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise ValueError(f"a range of ports is <first>-<last>, got {text}")
    return text


def _threads(name: str) -> Option:
    return Option(name, integer, text="Accepted without effect: the door needs no threads.", fate="no effect")


SAGEMAKER: Final = [
    Option("allow-sagemaker", boolean, "doors.allow_sagemaker", "Open SageMaker's door."),
    Option("sagemaker-port", port, "doors.sagemaker_port", "Port to listen on."),
    Option(
        "sagemaker-safe-port-range",
        port_range,
        "doors.sagemaker_safe_port_range",
        "<first>-<last>: ports that the other doors may listen on beside this one.",
    ),
    Option("sagemaker-address", string, "doors.sagemaker_address", "Ours: address to listen on."),
    Option(
        "sagemaker-default-model",
        string,
        "sagemaker.default_model",
        "Ours: the model that /invocations asks; SAGEMAKER_TRITON_DEFAULT_MODEL_NAME.",
    ),
    Option(
        "sagemaker-ping-mode",
        choice("sagemaker-ping-mode", "ready", "live"),
        "sagemaker.ping_mode",
        "Ours: what /ping asks; SAGEMAKER_TRITON_PING_MODE.",
    ),
    Option(
        "sagemaker-inference-type",
        choice("sagemaker-inference-type", "infer", "generate", "generate_stream"),
        "sagemaker.inference_type",
        "Ours: which API /invocations is; SAGEMAKER_TRITON_INFERENCE_TYPE.",
    ),
    _threads("sagemaker-thread-count"),
]
VERTEX_AI: Final = [
    Option(
        "allow-vertex-ai",
        boolean,
        "doors.allow_vertex_ai",
        "Open Vertex AI's door. With AIP_MODE=PREDICTION it is open, and the HTTP and gRPC doors are not, unless told.",
    ),
    Option("vertex-ai-port", port, "doors.vertex_ai_port", "Port to listen on; AIP_HTTP_PORT."),
    Option(
        "vertex-ai-default-model",
        string,
        "vertex_ai.default_model",
        "The model that predicts; without it there must be one only.",
    ),
    Option("vertex-ai-address", string, "doors.vertex_ai_address", "Ours: address to listen on."),
    Option(
        "vertex-ai-predict-route",
        regular_expression,
        "vertex_ai.predict_route",
        "Ours: its path, or a regular expression; AIP_PREDICT_ROUTE.",
    ),
    Option(
        "vertex-ai-health-route",
        regular_expression,
        "vertex_ai.health_route",
        "Ours: its path, or a regular expression; AIP_HEALTH_ROUTE.",
    ),
    _threads("vertex-ai-thread-count"),
]

_VARIABLES: Final = {
    "AIP_HTTP_PORT": "vertex-ai-port",
    "AIP_PREDICT_ROUTE": "vertex-ai-predict-route",
    "AIP_HEALTH_ROUTE": "vertex-ai-health-route",
    "AIP_STORAGE_URI": "model-repository",
    "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "sagemaker-default-model",
    "SAGEMAKER_TRITON_PING_MODE": "sagemaker-ping-mode",
    "SAGEMAKER_TRITON_INFERENCE_TYPE": "sagemaker-inference-type",
}


def hosting_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Option, value, and the variable that says it."""
    if environment.get("AIP_MODE") == "PREDICTION":
        yield "allow-vertex-ai", "true", "AIP_MODE"
        yield "allow-http", "false", "AIP_MODE"
        yield "allow-grpc", "false", "AIP_MODE"
    for variable, name in _VARIABLES.items():
        if text := environment.get(variable, ""):
            yield name, text, variable


def cloud_complaints(doors: DoorSettings, values: Values) -> list[str]:
    """What is wrong about these doors, in the reference server's words."""
    complaints = []
    if doors.allow_vertex_ai:
        told = values.part("vertex_ai")
        complaints += [
            f"failed to start Vertex AI service: Invalid argument - {words} is not defined for Vertex AI endpoint"
            for field, words in (("predict_route", "API_PREDICT_ROUTE"), ("health_route", "AIP_HEALTH_ROUTE"))
            if not told.get(field)
        ]
    if doors.allow_sagemaker and doors.sagemaker_safe_port_range:
        first, last = map(int, doors.sagemaker_safe_port_range.split("-"))
        complaints += [
            f"The server cannot listen to {service} requests at port {number}, allowed port range is [{first}, {last}]"
            for service, address, number in doors.open_doors()
            if service != "SageMaker" and not address.startswith(UNIX) and not first <= number <= last
        ]
    return complaints
