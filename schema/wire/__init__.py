"""Protobuf messages of the gRPC protocol and of the model configuration, and their fast codec.

`proto/` holds the definitions, `generated/` what betterproto2 makes of them (see generate.py)."""
