"""`despina infer`: one request from the shell to a running server, ours or any that speaks the protocol."""

from __future__ import annotations

import argparse
import ssl
import sys
from typing import TYPE_CHECKING, NoReturn

import orjson

from ...schema.fault import Fault
from .infer_http import CallFailed, HttpCaller
from .infer_values import BadInput, plain, split_input, tensor_of, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...schema.tensor import Tensor
    from .infer_grpc import GrpcCaller

_EPILOG = """\
values:
  NAME=1,2,3            elements; the shape comes from the model
  NAME='[[1,2],[3,4]]'  JSON; nested lists give the shape
  NAME=@picture.npy     a numpy array
  NAME=@file            the file's bytes: one element of a BYTES input, else raw little-endian elements
  NAME:2x3=...          any of them with the shape given

examples:
  despina infer file_type --input CONTENT=@photo.jpg
  despina infer file_type --url https://models.example:8000 --ca-file ca.pem --input CONTENT=@photo.jpg
  despina infer file_type --protocol grpc --url localhost:8001 --input CONTENT=@photo.jpg --output LABEL --json
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"\n{message}\n")


def infer(arguments: Sequence[str]) -> int:
    """Asks for the model's inputs, sends one request and prints the outputs. Gives the exit code: 1 for any failure."""
    options = _parser().parse_args(list(arguments))
    try:
        caller = _caller(options)
        try:
            tensors = _inputs(options.input, caller.signature())
            answers = caller.infer(tensors, options.output)
        finally:
            caller.close()
        _print(answers, as_json=options.json)
    except (CallFailed, BadInput, Fault) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="despina infer",
        description="Sends one request to a running server and prints the answer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", help="the model's name")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=VALUE", help="one input; see below")
    parser.add_argument("--output", action="append", default=[], metavar="NAME", help="only these outputs")
    parser.add_argument("--version", default="", help="a version of the model (default: the server's choice)")
    parser.add_argument(
        "--url",
        default="localhost",
        metavar="[https://]HOST[:PORT]",
        help="the server (default: localhost; ports 8000 or 8001, with https:// 443)",
    )
    parser.add_argument("--ca-file", default="", metavar="PEM", help="trust these authorities, too (with https://)")
    parser.add_argument("--protocol", choices=("http", "grpc"), default="http", help="default: http")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def _place(url: str, protocol: str) -> tuple[str, bool]:
    """`host:port` of what was typed, and whether to speak TLS there. A scheme and the port may be missing."""
    scheme, separator, place = url.rstrip("/").rpartition("://")
    if separator and scheme not in ("http", "https", "grpc", "grpcs"):
        raise BadInput(f"--url is HOST[:PORT], after http:// or https:// if you like, got '{url}'")
    tls = scheme in ("https", "grpcs")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        return f"{place}:{443 if tls else 8001 if protocol == 'grpc' else 8000}", tls
    if not port.isdigit() or not host:
        raise BadInput(f"--url is HOST or HOST:PORT, got '{url}'")
    return place, tls


def _caller(options: argparse.Namespace) -> HttpCaller | GrpcCaller:
    place, tls = _place(options.url, options.protocol)
    if options.ca_file and not tls:
        raise BadInput(f"--ca-file is for https://, got '{options.url}'")
    context = _trusted(options.ca_file) if tls else None
    if options.protocol == "grpc":
        from .infer_grpc import GrpcCaller  # imported when asked for: it brings asyncio

        return GrpcCaller(place, options.model, options.version, options.timeout, context)
    return HttpCaller(place, options.model, options.version, options.timeout, context)


def _trusted(ca_file: str) -> ssl.SSLContext:
    """The system's authorities, and those of the file."""
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # SSLError is one, for a file without certificates
            raise BadInput(f"--ca-file {ca_file}: {error.strerror or error}") from None
    return context


def _inputs(texts: Sequence[str], signature: Sequence[tuple[str, str, list[int]]]) -> list[Tensor]:
    """The tensors to send, each checked against the model's inputs. Inputs left out are the server's to complain of."""
    known = {name: (datatype, shape) for name, datatype, shape in signature}
    tensors: dict[str, Tensor] = {}
    for text in texts:
        name, shape, value = split_input(text)
        if name not in known:
            raise BadInput(f"input '{name}' is unknown; the model's inputs are {_described(signature)}")
        if name in tensors:
            raise BadInput(f"input '{name}' is given twice")
        datatype, expected = known[name]
        tensors[name] = tensor_of(name, datatype, expected, value, shape)
    if not texts:
        raise BadInput(f"no --input given; the model's inputs are {_described(signature)}")
    return list(tensors.values())


def _described(signature: Sequence[tuple[str, str, list[int]]]) -> str:
    return ", ".join(f"{name} ({datatype} {shape})" for name, datatype, shape in signature)


def _print(answers: Sequence[Tensor], *, as_json: bool) -> None:
    if as_json:
        values = {
            tensor.name: {"datatype": tensor.datatype, "shape": list(tensor.shape), "data": plain(tensor)}
            for tensor in answers
        }
        print(orjson.dumps(values).decode())
        return
    for tensor in answers:
        print(text_of(tensor))
