"""The generated messages: fresh, and the same on the wire as the protocol's own descriptors."""

from __future__ import annotations

import dataclasses

import betterproto2
import pytest
from despina.schema.message_type import enum_names, fields_of
from despina.schema.wire import generate
from despina.schema.wire.generated import inference
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

KINDS = {
    getattr(FieldDescriptor, f"TYPE_{kind.upper()}"): kind
    for kind in ("int32", "int64", "uint32", "uint64", "bool", "string", "bytes", "float", "double", "enum", "message")
}


def nested(message):
    yield message
    for inner in message.nested_types:
        if not inner.GetOptions().map_entry:
            yield from nested(inner)


def all_messages():
    for module in (model_config_pb2, service_pb2):
        for message in module.DESCRIPTOR.message_types_by_name.values():
            yield from nested(message)


MESSAGES = list(all_messages())
ENUMS = [
    *model_config_pb2.DESCRIPTOR.enum_types_by_name.values(),
    *(enum for message in MESSAGES for enum in message.enum_types),
]


def class_of(descriptor):
    return getattr(inference, descriptor.full_name.removeprefix("inference.").replace(".", ""))


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_generated_code_is_fresh(tmp_path):
    """What stands in `generated/` is what the compiler makes of `proto/` now."""
    generate.generate(tmp_path)
    assert files_below(tmp_path) == files_below(generate.GENERATED), "run: python schema/wire/generate.py"


def test_a_broken_proto_is_reported(tmp_path, monkeypatch):
    """The compiler's words reach whoever ran the script, and nothing is written over."""
    broken = tmp_path / "proto"
    broken.mkdir()
    (broken / "x.proto").write_text("message {")
    monkeypatch.setattr(generate, "PROTO", broken)
    monkeypatch.setattr(generate, "GENERATED", tmp_path / "generated")
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated" / "kept.py").touch()
    monkeypatch.setattr("sys.argv", ["generate.py"])
    with pytest.raises(RuntimeError, match=r"(?s)protoc failed:\n.*x\.proto:1:9"):
        generate.main()
    assert (tmp_path / "generated" / "kept.py").exists()


def test_the_command_replaces_what_was_there(tmp_path, monkeypatch):
    """One run leaves the whole package and nothing of the old one."""
    target = tmp_path / "generated"
    target.mkdir()
    (target / "old.py").touch()
    monkeypatch.setattr(generate, "GENERATED", target)
    monkeypatch.setattr("sys.argv", ["generate.py"])
    generate.main()
    assert not (target / "old.py").exists()
    assert (target / "inference" / "__init__.py").exists()


def test_a_missing_plugin_is_named(tmp_path, monkeypatch):
    """Without the compiler's plugin the script says what to install."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="protoc-gen-python_betterproto2 is not installed"):
        generate.generate(tmp_path)


@pytest.mark.parametrize("descriptor", MESSAGES, ids=lambda descriptor: descriptor.full_name)
def test_messages_are_the_protocols(descriptor):
    """Every message has the protocol's fields: name, number, type, label, oneof, and the order of declaration.

    Fields that only we know (the protocol moves on) would fail here as well: clients must see no others.
    """
    ours = fields_of(class_of(descriptor))
    assert list(ours) == [field.name for field in descriptor.fields]
    numbers = {
        field.name.rstrip("_"): field.metadata["betterproto"].number
        for field in dataclasses.fields(class_of(descriptor))
    }
    assert numbers == {field.name: field.number for field in descriptor.fields}
    for field in descriptor.fields:
        mine = ours[field.name]
        assert mine.json_name == field.json_name
        assert mine.oneof == (field.containing_oneof.name if field.containing_oneof else None)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            assert mine.kind == "map"
            assert mine.entry is not None
            for part in ("key", "value"):
                assert_same_type(mine.entry[part], field.message_type.fields_by_name[part])
        else:
            assert mine.repeated == field.is_repeated
            assert_same_type(mine, field)


def assert_same_type(mine, field):
    assert mine.kind == KINDS[field.type]
    if field.message_type is not None:
        assert mine.message is class_of(field.message_type)
    if field.enum_type is not None:
        assert mine.enum is class_of(field.enum_type)


@pytest.mark.parametrize("descriptor", ENUMS, ids=lambda descriptor: descriptor.full_name)
def test_enums_are_the_protocols(descriptor):
    """Every enum has the protocol's names and numbers."""
    assert enum_names(class_of(descriptor)) == {value.name: value.number for value in descriptor.values}


def test_nothing_is_missing_or_added():
    """The package has a class for each message and enum of the protocol and no more, the service aside."""
    ours = {
        name
        for name in inference.__all__
        if issubclass(getattr(inference, name), (betterproto2.Message, betterproto2.Enum))
    }
    theirs = {item.full_name.removeprefix("inference.").replace(".", "") for item in (*MESSAGES, *ENUMS)}
    assert ours == theirs


def test_the_service_has_every_method():
    """The base class routes each RPC of the protocol."""
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    routes = inference.GrpcInferenceServiceBase().__mapping__()
    assert sorted(routes) == sorted(f"/inference.GRPCInferenceService/{method.name}" for method in service.methods)
