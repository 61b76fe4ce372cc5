"""A version's model, read: what it says of itself, and how it gets into a session."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from ...schema.fault import Fault, Internal, InvalidArgument, Unavailable
from .failure import failure_text
from .signature import TYPE_NAMES, ModelTensor, Signature, kind_of, of_definition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ...engine.port.backend import ModelContext
    from .options import Options

_log = logging.getLogger("despina.backends.tensorflow")

GRAPH = "tensorflow_graphdef"
SAVED_MODEL = "tensorflow_savedmodel"
_FILE_NAMES = {GRAPH: "model.graphdef", SAVED_MODEL: "model.savedmodel"}
_DEFAULT_SIGNATURE = "serving_default"
_INNER_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")
_PLACEHOLDERS = ("Placeholder", "PlaceholderWithDefault")
_TENSORRT = "TRTEngineOp"


@attrs.frozen
class Opened:
    """A model's files. What they hold is read again for each session, not kept."""

    signature: Signature
    load: Callable[[Any, bool], None]
    """Fills the session, whose graph is the thread's default, and gives its variables their values. The flag: the
    model says on which device a node runs."""


def open_files(tf: Any, context: ModelContext, options: Options) -> Opened:
    """Raises Unavailable for what is not there, Internal with TensorFlow's text for what does not open, InvalidArgument
    for a tag, a signature or a platform that is not the model's."""
    platform = context.config.platform
    if platform not in _FILE_NAMES:
        raise InvalidArgument(f"platform {platform} not supported for TensorFlow model '{context.name}'")
    path = context.version_path / (context.config.default_model_filename or _FILE_NAMES[platform])
    if not path.exists():
        raise Unavailable(f"unable to find '{path}' for model instance '{context.name}'")
    operations = _initial_operations(context, options.init_file)
    _load_operations(tf, context)
    try:
        if platform == GRAPH:
            return _graph(tf, context.name, path, operations)
        return _saved_model(tf, context.name, path, options, operations)
    except Fault:
        raise
    except Exception as error:
        raise Internal(f"failed to load model '{context.name}': {failure_text(error)}") from error


def _graph(tf: Any, model_name: str, path: Path, operations: Sequence[str]) -> Opened:
    from tensorflow.core.framework import types_pb2

    definition = _definition(tf, model_name, path)
    _check_operations(tf, model_name, definition)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(definition, name="")
        inputs: dict[str, ModelTensor] = {}
        outputs: dict[str, ModelTensor] = {}
        for node in graph.get_operations():
            found = inputs if node.type in _PLACEHOLDERS else outputs
            for index, tensor in enumerate(node.outputs):
                name = f"{node.name}:{index}" if index else node.name
                type_name = types_pb2.DataType.Name(tensor.dtype.base_dtype.as_datatype_enum)
                if type_name in TYPE_NAMES:  # of the others nobody may ask
                    shape = None if tensor.shape.rank is None else tuple(-1 if s is None else s for s in tensor.shape)
                    kind = kind_of(model_name, "tensor", name, type_name)
                    found[name] = ModelTensor(name, tensor.name, kind, shape)
    dismantle(graph)
    return Opened(Signature(inputs, outputs, names_all=False), partial(_load_graph, tf, model_name, path, operations))


def _load_graph(
    tf: Any, model_name: str, path: Path, operations: Iterable[str], session: Any, places_itself: bool
) -> None:
    definition = _definition(tf, model_name, path)
    if not places_itself:
        for node in definition.node:
            node.ClearField("device")
    tf.graph_util.import_graph_def(definition, name="")
    _run(model_name, session, operations)


def _definition(tf: Any, model_name: str, path: Path) -> Any:
    definition = tf.compat.v1.GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's, whichever is installed
        raise Internal(f"failed to load model '{model_name}': '{path}' is no GraphDef: {error}") from error
    if not definition.node:
        raise Internal(f"model {model_name} has an empty network")
    return definition


def _saved_model(tf: Any, model_name: str, path: Path, options: Options, operations: Sequence[str]) -> Opened:
    from tensorflow.core.framework import types_pb2
    from tensorflow.python.saved_model import loader_impl

    graphs = list(loader_impl.parse_saved_model(str(path)).meta_graphs)
    chosen = next((graph for graph in graphs if set(graph.meta_info_def.tags) == options.graph_tags), None)
    if chosen is None:
        known = "; ".join(",".join(sorted(graph.meta_info_def.tags)) for graph in graphs)
        raise InvalidArgument(
            f"unable to load model '{model_name}', expected '{','.join(sorted(options.graph_tags))}' tag, the model "
            f"has: {known}"
        )
    _check_operations(tf, model_name, chosen.graph_def)
    name = _signature_name(model_name, chosen, options.signature_name)
    signature = of_definition(types_pb2.DataType, model_name, chosen.signature_def[name])
    return Opened(signature, partial(_load_saved_model, model_name, path, sorted(options.graph_tags), operations))


def _load_saved_model(
    model_name: str, path: Path, tags: list[str], operations: Iterable[str], session: Any, places_itself: bool
) -> None:
    from tensorflow.python.saved_model import loader_impl

    loader_impl.SavedModelLoader(str(path)).load(session, tags, clear_devices=not places_itself)
    _run(model_name, session, operations)


def _signature_name(model_name: str, graph: Any, wanted: str) -> str:
    names: list[str] = sorted(name for name in graph.signature_def if name not in _INNER_SIGNATURES)
    name = wanted or _DEFAULT_SIGNATURE
    if name in names:
        return name
    if wanted or not names:
        raise InvalidArgument(
            f"unable to load model '{model_name}', expected '{name}' signature, the model has: "
            f"{', '.join(names) or 'none'}"
        )
    _log.warning(
        "model '%s': unable to find default serving signature '%s', using signature '%s'", model_name, name, names[0]
    )
    return names[0]


def _check_operations(tf: Any, model_name: str, definition: Any) -> None:
    """Names what is not there: TensorFlow would, too, but not what to do."""
    from tensorflow.python.framework import op_def_registry

    functions = {function.signature.name for function in definition.library.function}
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    unknown = sorted({node.op for node in nodes} - functions)
    unknown = [name for name in unknown if op_def_registry.get(name) is None]
    if not unknown:
        return
    hint = "give the library that has it as model_operations.op_library_filename"
    if _TENSORRT in unknown:
        unknown, hint = [_TENSORRT], "a model that TF-TRT has converted needs a TensorFlow built with TensorRT"
    raise Unavailable(
        f"unable to load model '{model_name}': its graph has operation '{unknown[0]}', which TensorFlow "
        f"{tf.__version__} does not have here; {hint}"
    )


def _load_operations(tf: Any, context: ModelContext) -> None:
    """Custom operations of the configuration. They stay with the process, as TensorFlow has it."""
    operators = context.config.model_operations
    for name in operators.op_library_filename if operators is not None else ():
        path = _beside(context, name)
        if path is None:
            raise Unavailable(
                f"unable to find '{context.model_path / name}', a library of operators for model '{context.name}'"
            )
        try:
            tf.load_op_library(str(path))
        except Exception as error:
            raise Internal(f"failed to load model '{context.name}': {failure_text(error)}") from error


def _initial_operations(context: ModelContext, name: str) -> tuple[str, ...]:
    """Names of what is to run before the first execution."""
    if not name:
        return ()
    path = _beside(context, name)
    if path is None:
        raise Unavailable(f"unable to find '{context.version_path / name}', TF_INIT_OPS_FILE of model '{context.name}'")
    try:
        found = json.loads(path.read_bytes())["init_ops"]
    except (ValueError, TypeError, KeyError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidArgument(
            f"model '{context.name}': TF_INIT_OPS_FILE '{path}' must be a JSON object with a list of names 'init_ops'"
        )
    return tuple(found)


def _beside(context: ModelContext, name: str) -> Path | None:
    """A file of the version's directory, else of the model's."""
    return next((path / name for path in (context.version_path, context.model_path) if (path / name).is_file()), None)


def _run(model_name: str, session: Any, operations: Iterable[str]) -> None:
    for name in operations:
        try:
            operation = session.graph.get_operation_by_name(name)
        except KeyError:
            raise InvalidArgument(
                f"model '{model_name}': TF_INIT_OPS_FILE names operation '{name}', which is not in the graph"
            ) from None
        session.run(operation)


def dismantle(graph: Any) -> None:
    """Frees a graph now: it is made of circles, with the weights in them, and the collector would find it late."""
    from tensorflow.python.framework import ops

    ops.dismantle_graph(graph)
