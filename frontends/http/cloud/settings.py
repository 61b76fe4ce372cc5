"""What an operator, or the service that hosts the server, says about these doors."""

from __future__ import annotations

from typing import Literal

import attrs

InferenceType = Literal["infer", "generate", "generate_stream"]


@attrs.frozen(kw_only=True)
class VertexAiSettings:
    predict_route: str = ""
    """Regular expressions that match whole paths, or the paths themselves. Without both the door does not open."""
    health_route: str = ""
    default_model: str = ""
    """What predicts where no other route is asked for. Empty: the only model that serves at the start."""


@attrs.frozen(kw_only=True)
class SageMakerSettings:
    default_model: str = "unspecified_SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"
    """What `/invocations` asks."""
    ping_mode: Literal["ready", "live"] = "ready"
    inference_type: InferenceType = "infer"
    """Which API `/invocations` is."""
