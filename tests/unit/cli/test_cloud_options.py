"""Options of Vertex AI's and SageMaker's doors, and what these services say by the environment."""

from __future__ import annotations

import pytest
from despina.frontends.cli.command_line import read_command_line
from despina.frontends.cli.settings import BadSettings, settle

ROUTES = {"AIP_PREDICT_ROUTE": "/p", "AIP_HEALTH_ROUTE": "/h"}


def settled(*arguments, **environment):
    return settle(read_command_line(["--model-repository=/m", *arguments], environment))


def complaints(*arguments, **environment):
    with pytest.raises(BadSettings) as caught:
        settled(*arguments, **environment)
    return caught.value.complaints


def open_doors(settings):
    return [name for name, _, _ in settings.doors.open_doors()]


def test_both_are_closed_by_default():
    """Goal: a server that nobody hosts has neither door, whatever else these variables say."""
    assert open_doors(settled(**ROUTES, AIP_HTTP_PORT="9", AIP_MODE="TRAINING")) == ["HTTP", "GRPC", "metrics"]


def test_prediction_mode():
    """Goal: AIP_MODE=PREDICTION opens this door and closes the protocol's; options win over it, wherever given."""
    variables = {**ROUTES, "AIP_MODE": "PREDICTION", "AIP_HTTP_PORT": "5234"}
    settings = settled(**variables)
    assert list(settings.doors.open_doors()) == [("metrics", "0.0.0.0", 8002), ("Vertex AI", "0.0.0.0", 5234)]
    assert (settings.vertex_ai.predict_route, settings.vertex_ai.health_route) == ("/p", "/h")
    assert open_doors(settled("--allow-grpc=1", **variables)) == ["GRPC", "metrics", "Vertex AI"]
    assert open_doors(settled(**variables, DESPINA_ALLOW_HTTP="1")) == ["HTTP", "metrics", "Vertex AI"]
    assert open_doors(settled("--allow-vertex-ai=false", "--allow-http=true", **variables)) == ["HTTP", "metrics"]
    assert settled("--vertex-ai-port=1", **variables).doors.vertex_ai_port == 1
    assert settled("--vertex-ai-predict-route=/q", **variables).vertex_ai.predict_route == "/q"


def test_prediction_mode_is_weaker_than_a_file(tmp_path):
    """Goal: the same for the file of options."""
    file = tmp_path / "despina.toml"
    file.write_text("allow-http = true\nvertex-ai-port = 7\n")
    settings = settled(f"--config={file}", **ROUTES, AIP_MODE="PREDICTION", AIP_HTTP_PORT="5234")
    assert open_doors(settings) == ["HTTP", "metrics", "Vertex AI"]
    assert settings.doors.vertex_ai_port == 7


def test_models_of_the_service():
    """Goal: AIP_STORAGE_URI is the repository where none is given, and nothing beside one that is."""
    values = read_command_line([], {"AIP_STORAGE_URI": "gs://bucket/models"})
    assert settle(values).engine.model_repository == ("gs://bucket/models",)
    assert settled(AIP_STORAGE_URI="gs://bucket/models").engine.model_repository == ("/m",)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AIP_HEALTH_ROUTE": "/h"}, ["API_PREDICT_ROUTE"]),
        ({"AIP_PREDICT_ROUTE": "/p"}, ["AIP_HEALTH_ROUTE"]),
        ({}, ["API_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"]),
    ],
)
def test_routes_are_needed(environment, words):
    """Goal: a missing route is told before models load, in the reference server's words."""
    assert complaints("--allow-vertex-ai=true", **environment) == [
        f"failed to start Vertex AI service: Invalid argument - {word} is not defined for Vertex AI endpoint"
        for word in words
    ]


def test_a_route_has_to_be_a_regular_expression():
    assert complaints("--allow-vertex-ai=true", AIP_PREDICT_ROUTE="/(", AIP_HEALTH_ROUTE="/h")[0].startswith(
        'Bad option: "--vertex-ai-predict-route".\nAIP_PREDICT_ROUTE: not a regular expression'
    )


def test_ports():
    """Goal: a port that is none, or that another door has, is told."""
    (complaint,) = complaints(AIP_HTTP_PORT="http")
    assert complaint == 'Bad option: "--vertex-ai-port".\nAIP_HTTP_PORT: Invalid option value. Got http'
    (complaint,) = complaints("--allow-vertex-ai=true", **ROUTES, AIP_HTTP_PORT="70000")
    assert "a port is 0 (any free one) to 65535" in complaint
    assert complaints("--allow-vertex-ai=true", "--allow-sagemaker=true", **ROUTES) == [
        "The server cannot listen to SageMaker requests and Vertex AI requests at the same address and port "
        "0.0.0.0:8080"
    ]
    assert complaints("--allow-sagemaker=true", "--sagemaker-port=8000") == [
        "The server cannot listen to HTTP requests and SageMaker requests at the same address and port 0.0.0.0:8000"
    ]


def test_safe_ports():
    """Goal: other doors outside of SageMaker's range are refused; its own, those at paths and closed ones are not."""
    allowed = ["--allow-sagemaker=true", "--sagemaker-safe-port-range=8001-9000"]
    assert complaints(*allowed) == [
        "The server cannot listen to HTTP requests at port 8000, allowed port range is [8001, 9000]"
    ]
    assert complaints(*allowed, "--http-port=8001", "--grpc-port=8002", "--metrics-port=9001") == [
        "The server cannot listen to metrics requests at port 9001, allowed port range is [8001, 9000]"
    ]
    settled(*allowed, "--http-address=unix:/run/x")
    settled(*allowed, "--allow-http=false", "--sagemaker-port=80")
    settled("--sagemaker-safe-port-range=8001-9000")
    for text in ("8081", "9-8", "a-b", "1-2-3", ""):
        (complaint,) = complaints(f"--sagemaker-safe-port-range={text}")
        assert complaint.startswith('Bad option: "--sagemaker-safe-port-range".')


def test_environment_of_sagemaker():
    """Goal: the reference server's variables are read; what they cannot mean is refused."""
    told = settled(
        SAGEMAKER_TRITON_DEFAULT_MODEL_NAME="m",
        SAGEMAKER_TRITON_PING_MODE="live",
        SAGEMAKER_TRITON_INFERENCE_TYPE="generate",
    ).sagemaker
    assert (told.default_model, told.ping_mode, told.inference_type) == ("m", "live", "generate")
    assert "SAGEMAKER_TRITON_PING_MODE: " in complaints(SAGEMAKER_TRITON_PING_MODE="dead")[0]
    assert "SAGEMAKER_TRITON_INFERENCE_TYPE: " in complaints(SAGEMAKER_TRITON_INFERENCE_TYPE="stream")[0]
