"""Which file of a version is the model, of which kind it is, and who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schema.fault import Fault, Internal, InvalidArgument, Unavailable
from .boosters import LightGBMPredictor, TreelitePredictor, XGBoostPredictor
from .estimator import EstimatorPredictor, read_pickle, read_skops

if TYPE_CHECKING:
    from pathlib import Path

    from ...engine.port.backend import ModelContext
    from .options import Options
    from .predictor import Predictor

_KINDS = {
    "xgboost.model": "xgboost",
    "xgboost.json": "xgboost_json",
    "xgboost.ubj": "xgboost_ubj",
    "model.txt": "lightgbm",
    "checkpoint.tl": "treelite_checkpoint",
    "model.skops": "scikit-learn",
    "model.joblib": "scikit-learn",
    "model.pkl": "scikit-learn",
}
"""The names that files have when nobody says another, and what they are then."""
_BY_ENDING = {name.rpartition(".")[2]: kind for name, kind in _KINDS.items()} | {"pickle": "scikit-learn"}


def open_file(context: ModelContext, options: Options, why_no_pickles: str) -> Predictor:
    """Opens no pickle where `why_no_pickles` says why not.

    Raises Unavailable for a file, or a framework, that is not there, InvalidArgument for one that may not be opened,
    Internal with the framework's text for one that does not open."""
    path, kind = _chosen(context, options)
    try:
        return _read(path, kind, options, why_no_pickles)
    except ImportError as error:
        raise Unavailable(
            f"unable to load model '{context.name}': {_framework(kind)} cannot be imported ({error}); to get it: "
            "pip install 'despina[trees]'"
        ) from error
    except InvalidArgument as fault:
        raise InvalidArgument(f"unable to load model '{context.name}': {fault.message}") from None
    except Fault:
        raise
    except Exception as error:
        raise Internal(f"failed to load model '{context.name}': {error}") from error


def _chosen(context: ModelContext, options: Options) -> tuple[Path, str]:
    """The file, and its kind."""
    named, kind = context.config.default_model_filename, options.model_type
    if named:
        path = context.version_path / named
        kind = kind or _BY_ENDING.get(named.rpartition(".")[2], "")
        if not kind:
            raise InvalidArgument(
                f"unable to load model '{context.name}': '{named}' does not say what it is; the parameter "
                "model_type must"
            )
        _must_be_there(context, [path])
        return path, kind
    usual = [context.version_path / name for name, its in _KINDS.items() if kind in ("", its)]
    there = [path for path in usual if path.is_file()]
    _must_be_there(context, there or usual)
    if len(there) > 1:
        raise InvalidArgument(
            f"unable to load model '{context.name}': there are {' and '.join(path.name for path in there)}, which of "
            "them it is must be said by model_type or default_model_filename"
        )
    return there[0], _KINDS[there[0].name]


def _must_be_there(context: ModelContext, paths: list[Path]) -> None:
    if not any(path.is_file() for path in paths):
        names = " or ".join(f"'{path}'" if index == 0 else f"'{path.name}'" for index, path in enumerate(paths))
        raise Unavailable(f"unable to find {names} for model '{context.name}'")


def _read(path: Path, kind: str, options: Options, why_no_pickles: str) -> Predictor:
    if kind.startswith("xgboost"):
        return XGBoostPredictor(path, options.threads)
    if kind == "lightgbm":
        return LightGBMPredictor(path, options.threads)
    if kind == "treelite_checkpoint":
        return TreelitePredictor(path, options.threads)
    if path.suffix == ".skops":
        return EstimatorPredictor(read_skops(path, options.trusted_types), options.threads)
    if why_no_pickles:
        raise InvalidArgument(f"'{path.name}' is a pickle, and {why_no_pickles}; write it with skops instead")
    return EstimatorPredictor(read_pickle(path), options.threads)


def _framework(kind: str) -> str:
    return kind.partition("_")[0]
