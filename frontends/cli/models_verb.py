"""`despina models`: the repository of a running server."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .client.calls import CallFailed
from .client.options import server_options
from .verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .client.calls import Calls
    from .client.options import Server

_EXAMPLES = """
Examples:
  despina models list
  despina models show resnet --url grpc://localhost:8001
  despina models load resnet
  despina models load resnet --config config.json
  despina models unload ensemble --dependents
"""
_LIST = """
Examples:
  despina models list
  despina models list --url https://models.example --json
"""
_SHOW = """
Examples:
  despina models show resnet
  despina models show resnet --version 2 --json
"""
_LOAD = """
Works where the server runs with --model-control-mode=explicit.

Examples:
  despina models load resnet tokenizer
  despina models load resnet --config config.json
"""
_UNLOAD = """
Examples:
  despina models unload resnet
  despina models unload ensemble --dependents
"""


@click.group("models", cls=Verbs, epilog=_EXAMPLES)
def verb() -> None:
    """List, load, unload and show the models of a running server."""


@verb.command("list", epilog=_LIST)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_options
def list_models(*, server: Server, as_json: bool) -> None:
    """What is in the repository, and whether it is ready."""
    with server.calls() as calls:
        index = calls.index()
    if as_json:
        _print_json(index)
        return
    from .sheet import sheet

    keys = ("name", "version", "state", "reason")
    rows = [[str(item.get(key) or "-") for key in keys] for item in index]
    print(sheet(("model", *keys[1:]), rows) if rows else "no models")


@verb.command("show", epilog=_SHOW)
@click.argument("model")
@click.option("--version", default="", metavar="N", help="A version of it. [the server's choice]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: metadata, configuration and statistics.")
@server_options
def show_model(*, server: Server, model: str, version: str, as_json: bool) -> None:
    """Inputs, outputs, configuration and statistics of MODEL."""
    with server.calls() as calls:
        metadata = calls.metadata(model, version)
        config = calls.configuration(model, version)
        counted = calls.statistics(model, version)
    if as_json:
        _print_json({"metadata": metadata, "config": config, "statistics": counted})
        return
    from .sheet import sheet

    print(f"{metadata['name']}: {config.get('backend') or config.get('platform')}, {_scheduling(config)}")
    print(f"versions: {', '.join(metadata.get('versions') or ['-'])}\n")
    tensors = [
        (kind, item["name"], item["datatype"], "x".join(str(size) for size in item["shape"]))
        for kind in ("inputs", "outputs")
        for item in metadata.get(kind) or ()
    ]
    print(sheet(("", "name", "datatype", "shape"), [(kind[:-1], *rest) for kind, *rest in tensors]))
    print()
    head = ("version", "inferences", "executions", "failures", "queue ms", "infer ms")
    print(sheet(head, [_figures(item) for item in counted]))


@verb.command("load", epilog=_LOAD)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--config", default="", type=click.Path(), metavar="FILE", help="JSON that takes the place of its configuration."
)
@server_options
def load_models(*, server: Server, models: tuple[str, ...], config: str) -> None:
    """Load each MODEL, or load it anew."""
    text = None
    if config:
        try:
            text = Path(config).read_text()
        except OSError as error:
            raise click.ClickException(f"--config {config}: {error.strerror}") from None
    with server.calls() as calls:
        for model in models:
            try:
                calls.load(model, text)
            except CallFailed as problem:
                raise CallFailed(f"{problem}{_near(model, _known(calls))}") from None
            print(f"loaded {model}")


@verb.command("unload", epilog=_UNLOAD)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--dependents", is_flag=True, help="And the models of an ensemble.")
@server_options
def unload_models(*, server: Server, models: tuple[str, ...], dependents: bool) -> None:
    """Unload each MODEL; what is in flight is answered."""
    with server.calls() as calls:
        known = _known(calls)
        for model in models:
            if model not in known:  # servers take it for done
                raise click.ClickException(f"there is no model '{model}'{_near(model, known)}")
            calls.unload(model, dependents=dependents)
            print(f"unloading {model}")


def _known(calls: Calls) -> set[str]:
    return {str(item["name"]) for item in calls.index()}


def _near(model: str, known: set[str]) -> str:
    near = [] if model in known else difflib.get_close_matches(model, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _print_json(value: object) -> None:
    import orjson

    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _scheduling(config: Mapping[str, Any]) -> str:
    """In a few words."""
    words = [f"batches of up to {config['max_batch_size']}" if config.get("max_batch_size") else "no batches"]
    chosen = [name for name in ("dynamic_batching", "sequence_batching", "ensemble_scheduling") if config.get(name)]
    words += [name.replace("_", " ") for name in chosen]
    if (config.get("model_transaction_policy") or {}).get("decoupled"):
        words.append("decoupled")
    return ", ".join(words)


def _figures(item: Mapping[str, Any]) -> Sequence[str]:
    """One row; times are means."""
    stats = item["inference_stats"]
    failures = int((stats.get("fail") or {}).get("count") or 0)
    return (
        str(item["version"]),
        str(item.get("inference_count") or 0),
        str(item.get("execution_count") or 0),
        str(failures),
        *(_mean_ms(stats.get(name) or {}) for name in ("queue", "compute_infer")),
    )


def _mean_ms(duration: Mapping[str, Any]) -> str:
    count = int(duration.get("count") or 0)
    return f"{int(duration.get('ns') or 0) / count / 1e6:.3f}" if count else "-"
