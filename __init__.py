"""Despina: an inference server and an embeddable inference engine that speaks Triton's protocol."""

__version__ = "0.1.0"
