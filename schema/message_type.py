"""What fields a generated message has, as the readers and writers of its text forms need to know them."""

from __future__ import annotations

import dataclasses
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import betterproto2


@attrs.frozen
class FieldType:
    name: str
    """As the .proto file spells it."""
    json_name: str
    """The camelCase name, which JSON readers accept too."""
    attribute: str
    """The attribute of the message; it differs where the name is a Python keyword (`global_`)."""
    kind: str
    """The protobuf type: `int64`, `string`, `enum`, `message`, `map`, ..."""
    repeated: bool
    oneof: str | None
    """The oneof that the field belongs to. Its members have presence: they are None when unset, even scalars."""
    message: type[betterproto2.Message] | None
    """The class of kind `message`."""
    enum: type[betterproto2.Enum] | None
    """The class of kind `enum`."""
    entry: Mapping[str, FieldType] | None
    """The fields `key` and `value` of one entry, for kind `map`."""

    @property
    def has_presence(self) -> bool:
        """Whether unset differs from the default value."""
        return self.oneof is not None or (self.kind == "message" and not self.repeated)

    @property
    def is_optional_scalar(self) -> bool:
        """Whether it is a scalar with presence, which here only members of a oneof are."""
        return self.oneof is not None and self.kind != "message"


@cache
def fields_of(message: type[betterproto2.Message]) -> Mapping[str, FieldType]:
    """The fields of a message class by name, in the order of their declaration."""
    # The class itself answers for its metadata only through an instance.
    instance: Any = message()
    metadata = instance._betterproto
    fields: dict[str, FieldType] = {}
    for field in dataclasses.fields(instance):
        meta = metadata.meta_by_field_name[field.name]
        name = field.name.rstrip("_")
        entry = None
        if meta.map_meta is not None:
            key, value = meta.map_meta
            value_class = metadata.cls_by_field[f"{field.name}.value"]
            entry = MappingProxyType({"key": _field("key", key, str), "value": _field("value", value, value_class)})
        fields[name] = _field(name, meta, metadata.cls_by_field[field.name], attribute=field.name, entry=entry)
    return MappingProxyType(fields)


def enum_names(enum: type[betterproto2.Enum]) -> Mapping[str, int]:
    """The values of an enum by the names that the .proto file gives them."""
    return {enum_name(member): member.value for member in enum}


def enum_name(member: betterproto2.Enum) -> str:
    """The .proto name of a value, or "" for a number that has none."""
    return getattr(member, "_proto_name", None) or member.name


def _field(
    name: str,
    meta: betterproto2.FieldMetadata,
    value_class: Any,
    *,
    attribute: str | None = None,
    entry: Mapping[str, FieldType] | None = None,
) -> FieldType:
    head, *tail = name.split("_")
    return FieldType(
        name=name,
        json_name=head + "".join(part.capitalize() for part in tail),
        attribute=attribute or name,
        kind=meta.proto_type,
        repeated=bool(meta.repeated),
        oneof=meta.group,
        message=value_class if meta.proto_type == "message" else None,
        enum=value_class if meta.proto_type == "enum" else None,
        entry=entry,
    )
