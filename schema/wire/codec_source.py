"""Python source of a message class's decoder and encoder, from betterproto2's field metadata.

    decode(b, view, i, end, into, depth) -> message
        Reads b[i:end]. `view` is a memoryview of the same buffer; `into` is a message to merge into, or None for a new
        one; `depth` counts enclosing messages. Fields live in locals `v_<name>` until the end.
    encode(message, out) -> size
        Appends buffers to the list `out`.

Names that the source needs besides those of `codec._compile` are put into `scope`.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import betterproto2
from betterproto2 import FieldMetadata

from .varint import varint

Source = list[str]

_VARINT = {"int32", "int64", "uint32", "uint64", "sint32", "sint64", "bool", "enum"}
_FIXED = {"double": "d", "fixed64": "Q", "sfixed64": "q", "float": "f", "fixed32": "I", "sfixed32": "i"}


def _fields(cls: type) -> list[tuple[str, FieldMetadata]]:
    """Name and metadata of each field, by number."""
    fields: list[Any] = list(dataclasses.fields(cls))
    return sorted(((field.name, FieldMetadata.get(field)) for field in fields), key=lambda pair: pair[1].number)


def _class_of(cls: Any, name: str) -> Any:
    return cls._betterproto.cls_by_field[name]


def referenced_classes(cls: type) -> dict[str, type]:
    """Field name -> message class (for maps the entry's class) of every field that holds messages."""
    return {
        name: _class_of(cls, name)
        for name, meta in _fields(cls)
        if meta.proto_type in (betterproto2.TYPE_MAP, betterproto2.TYPE_MESSAGE)
    }


def _wire_type(proto_type: str) -> int:
    if proto_type in _VARINT:
        return 0
    if proto_type in _FIXED:
        return 1 if _fixed_size(proto_type) == 8 else 5
    return 2


def _fixed_size(proto_type: str) -> int:
    return 8 if proto_type in ("double", "fixed64", "sfixed64") else 4


def _from_varint(proto_type: str, name: str) -> Source:
    """Turns the unsigned 64-bit `x` into the field's value."""
    if proto_type == "int64":
        return ["if x > 0x7FFFFFFFFFFFFFFF: x -= 0x10000000000000000"]
    if proto_type in ("int32", "enum"):
        lines = ["x &= 0xFFFFFFFF", "if x > 0x7FFFFFFF: x -= 0x100000000"]
        return [*lines, f"x = enum_{name}(x)"] if proto_type == "enum" else lines
    if proto_type == "uint32":
        return ["x &= 0xFFFFFFFF"]
    if proto_type == "sint32":
        return ["x &= 0xFFFFFFFF", "x = (x >> 1) ^ -(x & 1)"]
    if proto_type == "sint64":
        return ["x = (x >> 1) ^ -(x & 1)"]
    if proto_type == "bool":
        return ["x = x != 0"]
    return []


def _read_one(proto_type: str, name: str) -> Source:
    """Reads one number at `i` into `x`."""
    if proto_type in _FIXED:
        return [f"x = unpack_{name}(b, i)[0]", f"i += {_fixed_size(proto_type)}"]
    return ["x = b[i]", "i += 1", "if x > 127: x, i = read_varint(b, i - 1)", *_from_varint(proto_type, name)]


def _indent(lines: Source, levels: int) -> Source:
    return ["    " * levels + line for line in lines]


def _sized_branch(name: str, meta: FieldMetadata, clear: Source) -> Source:
    """The body for a value of length-delimited wire type in b[i:e]."""
    target = f"v_{name}"
    proto_type = meta.proto_type
    if proto_type == betterproto2.TYPE_MAP:
        # An entry with fields beyond key and value is kept whole as an unknown field, as the reference does.
        return [
            f"x = decode_{name}(b, view, i, e, None, depth + 1)",
            "if x._unknown_fields: unknown += b[s:e]",
            f"else: {target}[x.key] = default_{name}() if x.value is None else x.value",
            "i = e",
        ]
    if proto_type == "message":
        if meta.repeated:
            return [f"{target}.append(decode_{name}(b, view, i, e, None, depth + 1))", "i = e"]
        return [f"{target} = decode_{name}(b, view, i, e, {target}, depth + 1)", *clear, "i = e"]
    if proto_type in ("string", "bytes"):
        value = 'str(b[i:e], "utf-8")' if proto_type == "string" else "view[i:e]"
        return [f"{target}.append({value})" if meta.repeated else f"{target} = {value}", *clear, "i = e"]
    if proto_type in _FIXED:
        size = _fixed_size(proto_type)
        return [
            f'if (e - i) % {size}: raise Malformed("packed list of odd size")',
            f'{target} += struct.unpack_from("<%d{_FIXED[proto_type]}" % ((e - i) // {size}), b, i)',
            "i = e",
        ]
    return [
        "while i < e:",
        *_indent([*_read_one(proto_type, name), f"{target}.append(x)"], 1),
        'if i != e: raise Malformed("truncated list")',
    ]


def decoder_source(cls: type, scope: dict[str, Any]) -> Source:
    fields = _fields(cls)
    groups: dict[str, list[str]] = {}
    for name, meta in fields:
        if meta.group:
            groups.setdefault(meta.group, []).append(name)
    fresh: Source = []
    sized: list[tuple[int, Source]] = []
    plain: list[tuple[int, Source]] = []
    for name, meta in fields:
        proto_type = meta.proto_type
        target = f"v_{name}"
        clear = [f"v_{other} = None" for other in groups.get(meta.group or "", ()) if other != name]
        if proto_type == betterproto2.TYPE_MAP:
            fresh.append(f"{target} = {{}}")
            # A message value that is missing from its entry is an empty message; scalars have their default already.
            scope[f"default_{name}"] = _class_of(cls, f"{name}.value")
        elif meta.repeated:
            fresh.append(f"{target} = []")
        else:
            scope[f"initial_{name}"] = cls._betterproto.default_gen[name]()  # type: ignore[attr-defined]
            fresh.append(f"{target} = initial_{name}")
        if proto_type == "enum":
            scope[f"enum_{name}"] = _class_of(cls, name)
        if proto_type in _FIXED:
            scope[f"unpack_{name}"] = struct.Struct("<" + _FIXED[proto_type]).unpack_from
        wire_type = _wire_type(proto_type)
        if wire_type == 2 or meta.repeated:
            sized.append((meta.number << 3 | 2, _sized_branch(name, meta, clear)))
        if wire_type != 2:
            store = f"{target}.append(x)" if meta.repeated else f"{target} = x"
            plain.append((meta.number << 3 | wire_type, [*_read_one(proto_type, name), store, *clear]))
    collected = "".join(f'"{name}": v_{name}, ' for name, _ in fields)
    return [
        "def decode(b, view, i, end, into, depth):",
        "    if into is None:",
        *_indent([*fresh, 'unknown = b""'], 2),
        "    else:",
        "        fields = into.__dict__",
        *_indent([f'v_{name} = fields["{name}"]' for name, _ in fields], 2),
        '        unknown = fields["_unknown_fields"]',
        "    while i < end:",
        "        s = i",
        "        t = b[i]",
        "        i += 1",
        "        if t > 127: t, i = read_tag(b, s)",
        *_indent(_dispatch(sized, plain), 2),
        '    if i != end: raise Malformed("truncated message")',
        "    if into is None: into = new(cls)",
        "    into.__dict__ = {" + collected + '"_unknown_fields": unknown}',
        "    return into",
    ]


def _dispatch(sized: list[tuple[int, Source]], plain: list[tuple[int, Source]]) -> Source:
    """Chooses by the tag `t`. Length-delimited values come first, because most are."""
    lines: Source = []
    if sized:
        lines += [
            "if t & 7 == 2:",
            "    e = b[i]",
            "    i += 1",
            "    if e > 127: e, i = read_varint(b, i - 1)",
            "    e += i",
            '    if e > end: raise Malformed("truncated field")',
        ]
        keyword = "if"
        for tag, body in sized:
            lines += [f"    {keyword} t == {tag}:", *_indent(body, 2)]
            keyword = "elif"
        lines += [
            "    else:",
            '        if t < 8: raise Malformed("field number 0")',
            "        i = e",
            "        unknown += b[s:i]",
        ]
    keyword = "elif" if sized else "if"
    for tag, body in plain:
        lines += [f"{keyword} t == {tag}:", *_indent(body, 1)]
        keyword = "elif"
    rest = ["i = skip_field(b, i, t, depth)", 'if i > end: raise Malformed("truncated field")', "unknown += b[s:i]"]
    return [*lines, "else:", *_indent(rest, 1)] if lines else rest


def _sized(tag: str, variable: str) -> Source:
    return [
        f"k = len({variable})",
        f"h = {tag} + (ONE_BYTE[k] if k < 128 else varint(k))",
        "n += len(h) + k",
        "out.append(h)",
        f"out.append({variable})",
    ]


def _message(name: str, tag: str, variable: str) -> Source:
    return [
        "sub = []",
        f"k = encode_{name}({variable}, sub)",
        f"h = {tag} + (ONE_BYTE[k] if k < 128 else varint(k))",
        "n += len(h) + k",
        "out.append(h)",
        "out += sub",
    ]


def _to_varint(proto_type: str, variable: str) -> str:
    if proto_type == "bool":
        return f"int({variable})"
    if proto_type in ("sint32", "sint64"):
        return f"({variable} << 1) ^ ({variable} >> 63)"
    return variable


def _encode_field(cls: type, name: str, meta: FieldMetadata, scope: dict[str, Any]) -> Source:
    proto_type = meta.proto_type
    wire_type = _wire_type(proto_type)
    packed = bool(meta.repeated) and wire_type != 2
    tag = repr(varint(meta.number << 3 | (2 if packed else wire_type)))
    head = [f'v = fields["{name}"]']
    if proto_type == betterproto2.TYPE_MAP:
        scope[f"entry_{name}"] = _class_of(cls, name)
        body = _message(name, tag, f"entry_{name}(key, x)")
        return [*head, "for key, x in v.items():", *_indent(body, 1)]
    if packed:
        if wire_type == 0:
            pack = f'x = b"".join([varint({_to_varint(proto_type, "one")}) for one in v])'
        else:
            pack = f'x = struct.pack("<%d{_FIXED[proto_type]}" % len(v), *v)'
        return [*head, "if v:", *_indent([pack, *_sized(tag, "x")], 1)]
    variable = "v"
    if meta.repeated:
        guard, variable = "for x in v:", "x"
    elif meta.optional or meta.group or proto_type == "message":
        guard = "if v is not None:"
    elif proto_type in ("float", "double"):
        guard = 'if v or str(v)[0] == "-":'  # minus zero is not the default
    elif proto_type == "bytes":
        guard = "if len(v):"
    else:
        guard = "if v:"
    if proto_type == "message":
        body = _message(name, tag, variable)
    elif proto_type == "string":
        recover = [f"x = encodable({variable}).encode()"]
        body = ["try:", f"    x = {variable}.encode()", "except UnicodeEncodeError:", *_indent(recover, 1)]
        body += _sized(tag, "x")
    elif proto_type == "bytes":
        body = _sized(tag, variable)
    elif wire_type == 0:
        body = [f"h = {tag} + varint({_to_varint(proto_type, variable)})", "n += len(h)", "out.append(h)"]
    else:
        body = [f'h = {tag} + struct.pack("<{_FIXED[proto_type]}", {variable})', "n += len(h)", "out.append(h)"]
    return [*head, guard, *_indent(body, 1)]


def encoder_source(cls: type, scope: dict[str, Any]) -> Source:
    lines = ["def encode(message, out):", "    n = 0", "    fields = message.__dict__"]
    for name, meta in _fields(cls):
        lines += _indent(_encode_field(cls, name, meta, scope), 1)
    lines += ['    v = fields["_unknown_fields"]', "    if v:", "        n += len(v)", "        out.append(v)"]
    return [*lines, "    return n"]
