"""`despina infer`: requests from the shell to a running server, ours or any that speaks the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .client.options import server_options
from .verbs import Verb

if TYPE_CHECKING:
    from .client.options import Server

_EPILOG = """
Values:
  NAME=1,2,3            elements; the shape comes from the model
  NAME='[[1,2],[3,4]]'  JSON; nested lists give the shape
  NAME=@picture.npy     a numpy array
  NAME=@values.json     JSON, as above
  NAME=@file            the file's bytes: one element of a BYTES input,
                        else raw little-endian elements
  NAME=@-               standard input, read as such a file
  NAME:2x3=...          any of them with the shape given

Examples:
  despina infer file_type --input CONTENT=@photo.jpg
  despina infer file_type --url grpc://localhost:8001 --output LABEL --json \\
                          --input CONTENT=@photo.jpg
  despina infer addsub --request request.json --repeat 100
  despina infer chat --url https://models.example --ca-file ca.pem \\
                     -H 'authorization: Bearer x' --input PROMPT=Hello
  gzip -d < rows.gz | despina infer rows --url unix:/run/despina.sock \\
                                    --input DATA=@-

A decoupled model's answers are printed as they come.
"""


@click.command("infer", cls=Verb, epilog=_EPILOG)
@click.argument("model")
@click.option("-i", "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="One input; see below. Repeatable.")
@click.option(
    "-r",
    "--request",
    default="",
    type=click.Path(),
    metavar="FILE",
    help="A whole request in JSON, as one would post it; - is standard input.",
)
@click.option("-o", "--output", "outputs", multiple=True, metavar="NAME", help="Only this output. Repeatable.")
@click.option("--version", default="", metavar="N", help="A version of the model. [the server's choice]")
@click.option("--id", "request_id", default="", metavar="TEXT", help="The request's id.")
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter: a number, true, false, or text. Repeatable.",
)
@click.option(
    "--repeat",
    default=1,
    type=click.IntRange(min=1),
    metavar="N",
    help="Send it N times, one after the other; shows the first answer, and how long they took.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer instead of text.")
@server_options
def verb(
    *,
    server: Server,
    model: str,
    inputs: tuple[str, ...],
    request: str,
    outputs: tuple[str, ...],
    version: str,
    request_id: str,
    parameters: tuple[str, ...],
    repeat: int,
    as_json: bool,
) -> int:
    """Send a request to MODEL on a running server and print the answer."""
    from .infer import Wish, infer

    wish = Wish(
        model=model,
        version=version,
        inputs=inputs,
        request=request,
        outputs=outputs,
        id=request_id,
        parameters=parameters,
        repeat=repeat,
        as_json=as_json,
    )
    return infer(server, wish)
