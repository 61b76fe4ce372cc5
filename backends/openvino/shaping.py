"""Makes a model take the configuration's datatypes and batches, before it is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...schema.config.sequence_tensors import added_inputs, state_outputs
from ...schema.datatype import BY_NUMBER
from ...schema.fault import InvalidArgument
from .configuration import model_dims
from .failure import failure_text
from .signature import ELEMENT_TYPES, Signature

if TYPE_CHECKING:
    from ...schema.wire.generated.inference import ModelConfig
    from .options import Options


def with_datatypes(ov: Any, model: Any, config: ModelConfig, signature: Signature) -> Any:
    """The model, converting where the configuration's datatypes are not the file's. For a signature that fits."""
    steps = ov.preprocess.PrePostProcessor(model)
    converts = False
    for item in (*config.input, *added_inputs(config)):
        tensor = signature.input_by_name[item.name]
        if tensor.kind is not BY_NUMBER[int(item.data_type)]:
            steps.input(tensor.index).tensor().set_element_type(_element_type(ov, item.data_type))
            converts = True
    for output in (*config.output, *state_outputs(config)):
        tensor = signature.output_by_name[output.name]
        if tensor.kind is not BY_NUMBER[int(output.data_type)]:
            steps.output(tensor.index).tensor().set_element_type(_element_type(ov, output.data_type))
            converts = True
    return steps.build() if converts else model


def fix_or_open_batch(ov: Any, model: Any, config: ModelConfig, options: Options) -> bool:
    """Gives the model's inputs the batch dimension, and with RESHAPE_IO_LAYERS the dims, that they are to have. True
    where every execution must have `max_batch_size` rows: it is wanted, or the model cannot do otherwise.

    Raises InvalidArgument where the model takes neither.
    """
    if config.max_batch_size == 0:
        _reshape(ov, model, config, options, None)
        return False
    if not options.keeps_batch_fixed:
        try:
            _reshape(ov, model, config, options, -1)
        except InvalidArgument:
            is_open = False  # the graph has the file's batch in it, and may take it still
        else:
            outputs = Signature.of(ov, model).outputs
            is_open = all(tensor.shape is None or tensor.shape[:1] == (-1,) for tensor in outputs)
        if is_open:
            return False
    _reshape(ov, model, config, options, config.max_batch_size)
    return True


def _reshape(ov: Any, model: Any, config: ModelConfig, options: Options, rows: int | None) -> None:
    signature = Signature.of(ov, model)
    wanted: dict[int, Any] = {}
    for item in (*config.input, *added_inputs(config)):
        tensor = signature.input_by_name[item.name]
        current = model.inputs[tensor.index].partial_shape
        if options.reshapes:
            sizes = [ov.Dimension(size) for size in model_dims(item)]
        elif tensor.shape is None:
            continue
        else:
            sizes = list(current)[0 if rows is None else 1 :]
        shape = ov.PartialShape(sizes if rows is None else [ov.Dimension(rows), *sizes])
        if shape != current:
            wanted[tensor.index] = shape
    if not wanted:
        return
    try:
        model.reshape(wanted)
    except Exception as error:
        raise InvalidArgument(failure_text(f"reshaping the inputs of model '{config.name}'", error)) from error


def _element_type(ov: Any, data_type: Any) -> Any:
    return getattr(ov.Type, ELEMENT_TYPES[BY_NUMBER[int(data_type)].name])
