"""As much of TensorRT's Python bindings as the backend uses, over numpy and the stand-in for CUDA's runtime.

It is there for what is the backend's own: which profile, which shapes, what is copied when, what becomes of errors.
That its classes have what the real ones have, with the same parameters, is tested against a record of theirs.
"""

import ctypes
import enum
import math

import numpy as np

DTYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64,
    "BOOL": np.bool_, "BF16": np.uint16, "FP8": np.uint8,
}  # fmt: skip

DataType = enum.Enum("DataType", list(DTYPES))
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
TensorFormat = enum.Enum("TensorFormat", ["LINEAR", "CHW32"])
ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE"])


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        self.made = True


class IOutputAllocator:
    def __init__(self):
        self.made = True


class Tensor:
    """How a plan describes one: not of the bindings."""

    def __init__(self, name, dtype, shape, *, is_shape=False, layout=TensorFormat.LINEAR):
        self.name, self.dtype, self.shape, self.is_shape, self.format = name, dtype, tuple(shape), is_shape, layout


class Plan:
    """What a file stands for: `compute` makes outputs of inputs, `shapes` their shapes of the inputs' (and of values of
    shape tensors). A profile is {input: (min, opt, max)}, of shape tensors {name: (min, opt, max)} in `values`."""

    def __init__(self, inputs, outputs, profiles, compute, shapes, values=()):
        self.inputs = {tensor.name: tensor for tensor in inputs}
        self.outputs = {tensor.name: tensor for tensor in outputs}
        self.profiles, self.compute, self.shapes = profiles, compute, shapes
        self.values = list(values) or [{}] * len(profiles)


class Module:
    """The module `tensorrt`: its plans are found by the bytes of their files."""

    def __init__(self, cuda):
        self.cuda = cuda
        self.plans = {}
        self.refuses = ""
        """The next call that is to fail: `runtime`, `context`, `bind`, `enqueue`."""
        self.created = []
        for kind in (DataType, TensorIOMode, TensorLocation, TensorFormat, ExecutionContextAllocationStrategy):
            setattr(self, kind.__name__, kind)
        self.ILogger, self.IOutputAllocator = ILogger, IOutputAllocator

    def init_libnvinfer_plugins(self, logger, namespace):
        assert logger.made
        return True

    def Runtime(self, logger):
        if self.fails(logger, "runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Runtime(self, logger)

    def fails(self, logger, what):
        if self.refuses != what:
            return False
        self.refuses = ""
        logger.log(ILogger.ERROR, f"cannot {what}")
        return True


class Runtime:
    def __init__(self, module, logger):
        self._module, self._logger = module, logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
        plan = self._module.plans.get(bytes(serialized_engine))
        if plan is None:
            self._logger.log(ILogger.ERROR, "magicTag does not match")
            return None
        self._module.created.append(self.engine_host_code_allowed)
        return ICudaEngine(self._module, self._logger, plan)


class ICudaEngine:
    def __init__(self, module, logger, plan):
        self._module, self._logger, self._plan = module, logger, plan
        self._tensors = {**plan.inputs, **plan.outputs}

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    @property
    def num_optimization_profiles(self):
        return len(self._plan.profiles)

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_dtype(self, name):
        return DataType[self._tensors[name].dtype]

    def get_tensor_shape(self, name):
        return list(self._tensors[name].shape)

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._plan.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name):
        return TensorLocation.HOST if self._tensors[name].is_shape else TensorLocation.DEVICE

    def get_tensor_format(self, name):
        return self._tensors[name].format

    def is_shape_inference_io(self, name):
        return self._tensors[name].is_shape

    def get_tensor_profile_shape(self, name, profile_index):
        return [list(shape) for shape in self._plan.profiles[profile_index][name]]

    def get_tensor_profile_values(self, name, profile_index):
        # As the binding has it: the first argument is the number, whatever it is called.
        return [list(each) for each in self._plan.values[name].get(profile_index, ())]

    def create_execution_context(self, strategy):
        if self._module.fails(self._logger, "context"):
            return None
        self._module.created.append(strategy.name)
        return IExecutionContext(self._module, self._logger, self._plan)


class IExecutionContext:
    def __init__(self, module, logger, plan):
        self._module, self._logger, self._plan = module, logger, plan
        self._profile = None
        self._shapes = {}
        self._addresses = {}
        self._allocators = {}

    def _error(self, text):
        self._logger.log(ILogger.ERROR, text)
        return False

    def set_optimization_profile_async(self, profile_index, stream_handle):
        assert stream_handle in self._module.cuda.streams
        self._profile = profile_index
        return True

    def set_input_shape(self, name, shape):
        lowest, _, highest = self._plan.profiles[self._profile][name]
        if len(shape) != len(lowest) or any(
            not a <= size <= b for a, size, b in zip(lowest, shape, highest, strict=True)
        ):
            return self._error(f"the shape {list(shape)} of {name} is outside of the profile")
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, memory):
        if self._module.fails(self._logger, "bind"):
            return False
        assert memory
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name, output_allocator):
        assert output_allocator.made
        self._allocators[name] = output_allocator
        return True

    def infer_shapes(self):
        return [name for name in self._plan.inputs if name not in self._shapes]

    def _values(self):
        return {
            tensor.name: _at(self._addresses[tensor.name], tensor.dtype, self._shapes[tensor.name]).copy()
            for tensor in self._plan.inputs.values()
            if tensor.is_shape
        }

    def get_tensor_shape(self, name):
        if name in self._shapes:
            return list(self._shapes[name])
        return list(self._plan.shapes(self._shapes, self._values())[name])

    def get_max_output_size(self, name):
        tensor = self._plan.outputs[name]
        shape = self._plan.shapes(
            {name: each[2] for name, each in self._plan.profiles[self._profile].items()},
            {name: np.array(each[2]) for name, each in self._plan.values[self._profile].items()},
        )[tensor.name]
        return math.prod(shape) * np.dtype(DTYPES[tensor.dtype]).itemsize

    def execute_async_v3(self, stream_handle):
        if self._module.fails(self._logger, "enqueue"):
            return False
        cuda, plan, shapes, values = self._module.cuda, self._plan, dict(self._shapes), self._values()
        addresses, allocators = dict(self._addresses), dict(self._allocators)

        def kernels():
            inputs = dict(values)
            for tensor in plan.inputs.values():
                if not tensor.is_shape:
                    array = _at(addresses[tensor.name], tensor.dtype, shapes[tensor.name])
                    cuda.check_device(addresses[tensor.name], array.nbytes)
                    inputs[tensor.name] = array
            for name, array in plan.compute(inputs).items():
                tensor = plan.outputs[name]
                array = np.ascontiguousarray(array, DTYPES[tensor.dtype])
                address = addresses.get(name)
                if name in allocators:
                    address = allocators[name].reallocate_output_async(
                        name, address or 0, array.nbytes, 256, stream_handle
                    )
                    allocators[name].notify_shape(name, list(array.shape))
                if not tensor.is_shape:
                    cuda.check_device(address, array.nbytes)
                ctypes.memmove(address, array.ctypes.data, array.nbytes)

        cuda.enqueue(stream_handle, kernels)
        return True


def _at(address, dtype, shape):
    count = math.prod(shape)
    raw = (ctypes.c_uint8 * (count * np.dtype(DTYPES[dtype]).itemsize)).from_address(address)
    return np.frombuffer(raw, DTYPES[dtype]).reshape(shape)
