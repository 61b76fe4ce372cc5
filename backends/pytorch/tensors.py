"""Between numpy's arrays and PyTorch's tensors, without a copy where neither side can be surprised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...schema.fault import InvalidArgument, ModelFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...schema.datatype import DataType
    from ..regions import Resident

UNSUPPORTED = frozenset({"UINT16", "UINT32", "UINT64"})

WRONG_FORM = (
    "output must be of type Tensor, List[str] or Tuple containing one of these two types. It should not be a List / "
    "Dictionary of Tensors or a Scalar"
)


def to_torch(torch: Any, array: np.ndarray, kind: DataType, device: Any) -> Any:
    """A tensor that the model may write to; for BYTES a list of str. Raises InvalidArgument for bytes that are no
    text."""
    if kind.name == "BYTES":
        try:
            return [item.decode() for item in array.ravel().tolist()]
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"strings must be UTF-8: {error}") from None
    if kind.name == "BF16":
        array = array.view(np.int16)
    if device.type == "cuda":
        # The device copies pinned memory by itself, in its stream's turn; torch keeps the memory until then.
        pinned = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, pin_memory=True)
        pinned.numpy()[...] = array
        tensor = pinned.to(device, non_blocking=True)
    else:
        if not array.flags.writeable or not array.flags.c_contiguous:
            array = np.array(array, order="C")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if kind.name == "BF16" else tensor


def on_device(torch: Any, resident: Resident, device: Any) -> Any:
    """A tensor of an input that lies on the device already. What the device did before has been waited for."""
    tensor = torch.empty(resident.shape, dtype=torch_dtype(torch, resident.kind), device=device)
    resident.copy_to(device.index, tensor.data_ptr())
    return tensor


def torch_dtype(torch: Any, kind: DataType) -> Any:
    """For all but BYTES and what PyTorch lacks."""
    return torch.bfloat16 if kind.name == "BF16" else torch.from_numpy(np.empty(0, kind.dtype)).dtype


def to_host(torch: Any, results: Mapping[str, Any], stream: Any) -> dict[str, Any]:
    """The same, those on the device in pinned memory: all are copied before the stream is waited for, once."""
    landed: dict[str, Any] = {}
    for name, result in results.items():
        if isinstance(result, torch.Tensor) and result.is_cuda:
            landed[name] = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            landed[name].copy_(result.detach(), non_blocking=True)
    if landed:
        stream.synchronize()
    return {**results, **landed}


def to_numpy(torch: Any, model: str, name: str, kind: DataType, value: Any) -> np.ndarray:
    """What an output's result holds. Raises ModelFailure where that is not what the configuration says."""
    if kind.name == "BYTES":
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ModelFailure(f"configuration expects datatype TYPE_STRING for output '{name}', {_found(value)}")
        items = np.empty(len(value), dtype=object)
        items[:] = [item.encode() for item in value]
        return items
    if not isinstance(value, torch.Tensor):
        raise ModelFailure(f"model '{model}', output '{name}': {WRONG_FORM}")
    tensor = value.detach().to("cpu").contiguous()
    if tensor.dtype == torch.bfloat16:
        provided = "BF16"
        array: np.ndarray = tensor.view(torch.int16).numpy().view(np.uint16)
    else:
        array = tensor.numpy()
        provided = _NAMES.get(array.dtype, str(array.dtype))
    if provided != kind.name:
        raise ModelFailure(
            f"configuration expects datatype {kind.config_name} for output '{name}', model provides TYPE_{provided}"
        )
    return array


_NAMES = {
    np.dtype(np.bool_): "BOOL",
    **{np.dtype(f"i{size}"): f"INT{8 * size}" for size in (1, 2, 4, 8)},
    **{np.dtype(f"u{size}"): f"UINT{8 * size}" for size in (1, 2, 4, 8)},
    **{np.dtype(f"f{size}"): f"FP{8 * size}" for size in (2, 4, 8)},
}


def _found(value: object) -> str:
    return f"model provides {type(value).__name__}"
