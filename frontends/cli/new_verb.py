"""`despina new`: a model for a repository, from a file or in Python."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import click

from .verbs import Verb

_EPILOG = """
Writes REPOSITORY/NAME: a complete config.pbtxt with comments, the file as its
version 1, and for Python a model.py with a test that passes. From a file the
inputs and outputs are those that the framework finds in it.

Examples:
  despina new resnet --from resnet50.onnx
  despina new tokenizer --from python
  python -B -m pytest -p no:cacheprovider tokenizer      (tries it)
  despina new mobilenet --from saved_model/ --repository /models
  despina new encoder --from model.pt
"""


@click.command("new", cls=Verb, epilog=_EPILOG)
@click.argument("name")
@click.option(
    "--from",
    "source",
    required=True,
    metavar="FILE|python",
    type=click.Path(),
    help="model.onnx, model.pt, model.pt2, a SavedModel's directory, model.graphdef, model.xml, model.plan, model.py; "
    "or `python` for one to write yourself.",
)
@click.option(
    "--repository", default=".", metavar="FOLDER", type=click.Path(file_okay=False), help="Where it is put. [.]"
)
def verb(*, name: str, source: str, repository: str) -> None:
    """Write the model NAME for a repository."""
    from .new.writing import write_model

    logging.getLogger("despina").addHandler(logging.NullHandler())  # what fails is said once, by the error
    files = write_model(Path(repository), name, source)
    for file in files:
        print(f"wrote {file}")
    place = shlex.quote(repository)
    print(
        "\nNext:\n"
        f"  despina check {place} --model {shlex.quote(name)}\n"
        f"  despina serve {place} --model-control-mode=explicit --load-model={shlex.quote(name)}"
    )
