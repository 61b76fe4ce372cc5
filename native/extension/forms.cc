#include "extension/forms.h"

#include <algorithm>
#include <cstring>

namespace despina {

namespace {

template <class Number>
void add(std::string& key, Number number)
{
  key.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void add_text(std::string& key, const std::string& text)
{
  add(key, text.size());
  key += text;
}

// Whether nothing is said of it but its model, id, inputs and outputs.
bool is_plain(const TRITONSERVER_InferenceRequest& request)
{
  return request.trace == nullptr && request.parameters.empty() && request.flags == 0 && request.correlation_id == 0 &&
         request.correlation_text.empty() && request.priority == 0 && request.timeout_us == 0;
}

bool write_key(std::string& key, const TRITONSERVER_InferenceRequest& request)
{
  key.clear();
  add_text(key, request.model_name);
  add(key, request.model_version);
  for (const Input& input : request.inputs) {
    if (input.raw) {
      return false;
    }
    add_text(key, input.tensor.name);
    add(key, input.tensor.datatype);
    add(key, input.tensor.shape.size());
    key.append(
        reinterpret_cast<const char*>(input.tensor.shape.data()), input.tensor.shape.size() * sizeof(int64_t));
  }
  add(key, request.inputs.size());
  for (const std::string& output : request.outputs) {
    add_text(key, output);
  }
  return true;
}

PyObject* made_by_python(const TRITONSERVER_InferenceRequest& request, PyObject* make)
{
  Ref inputs(PyTuple_New(static_cast<Py_ssize_t>(request.inputs.size())));
  Py_ssize_t place = 0;
  for (const Input& input : request.inputs) {
    PyTuple_SetItem(
        inputs.get(), place++,
        tuple_of(
            text_object(input.tensor.name), datatype_object(input.tensor.datatype), shape_object(input.tensor.shape))
            .release());
  }
  const Ref name = text_object(request.model_name);
  const Ref version = number_object(request.model_version);
  const Ref outputs = texts_object(request.outputs);
  PyObject* made = PyObject_CallFunctionObjArgs(make, name.get(), version.get(), inputs.get(), outputs.get(), nullptr);
  if (made == nullptr) {
    PyErr_Print();  // the requests are there all the same, and are taken whole
    Py_INCREF(Py_None);
    made = Py_None;
  }
  return made;
}

}  // namespace

void FormTable::clear()
{
  last_ = nullptr;
  for (const auto& [key, made] : std::exchange(made_, {})) {
    Py_DECREF(made);
  }
}

TensorHandle RecentTensors::of(PyObject* name, PyObject* datatype, PyObject* shape, PyObject* reshape)
{
  constexpr Py_ssize_t kDims = 8;
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(name, &size);
  if (text == nullptr) {
    throw PythonError{};
  }
  const TRITONSERVER_DataType type = datatype_from(datatype);
  int64_t dims[kDims];
  const Py_ssize_t rank = PyTuple_Check(shape) ? PyTuple_Size(shape) : kDims + 1;
  if (rank <= kDims) {
    for (Py_ssize_t place = 0; place < rank; ++place) {
      dims[place] = number_from(PyTuple_GetItem(shape, place));
    }
    for (const Met& met : met_) {
      if (met.tensor != nullptr && met.tensor->datatype == type && met.shape.size() == static_cast<size_t>(rank) &&
          met.tensor->name.size() == static_cast<size_t>(size) &&
          std::memcmp(met.tensor->name.data(), text, met.tensor->name.size()) == 0 &&
          std::equal(dims, dims + rank, met.shape.begin())) {
        return met.tensor;
      }
    }
  }
  Tensor tensor{std::string(text, static_cast<size_t>(size)), type, shape_from(shape)};
  std::vector<int64_t> described = tensor.shape;
  if (reshape != Py_None) {
    const Ref reshaped(PyObject_CallFunctionObjArgs(reshape, name, shape, nullptr));
    tensor.shape = shape_from(reshaped.get());
  }
  auto made = std::make_shared<const Tensor>(std::move(tensor));
  met_[oldest_++ % met_.size()] = {std::move(described), made};
  return made;
}

PyObject* Forms::of(const TRITONSERVER_InferenceRequest& request, PyObject* make)
{
  if (!is_plain(request) || !write_key(key_, request)) {
    return nullptr;
  }
  return made_.of(key_, [&] { return made_by_python(request, make); });
}

void add_output(std::string& key, const BackendOutput& output)
{
  add_text(key, output.tensor.name);
  add(key, output.tensor.datatype);
  add(key, output.byte_size);
  add(key, output.tensor.shape.size());
  key.append(
      reinterpret_cast<const char*>(output.tensor.shape.data()), output.tensor.shape.size() * sizeof(int64_t));
}

Ref joined(const Input& input)
{
  Ref bytes(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(input.byte_size)));
  char* at = PyBytes_AsString(bytes.get());
  for (const Piece& piece : input.pieces) {
    if (piece.memory_type == TRITONSERVER_MEMORY_GPU) {
      refuse(TRITONSERVER_ERROR_UNSUPPORTED,
             "input '" + input.tensor.name + "' is in GPU memory: give it in CPU memory");
    }
    std::memcpy(at, piece.base, piece.byte_size);
    at += piece.byte_size;
  }
  return bytes;
}

Ref known_object(const TRITONSERVER_InferenceRequest& request)
{
  Ref wires(PyTuple_New(static_cast<Py_ssize_t>(request.inputs.size())));
  Py_ssize_t place = 0;
  for (const Input& input : request.inputs) {
    PyTuple_SetItem(wires.get(), place++, joined(input).release());
  }
  return tuple_of(
      unsigned_object(request.ticket), pointer_object(&request), text_object(request.id), std::move(wires));
}

OutputBytes output_from(PyObject* name, PyObject* datatype, PyObject* shape, PyObject* buffer)
{
  static auto& recent = *new RecentTensors;  // for good: threads outlive the end of main
  OutputBytes output;
  output.tensor = recent.of(name, datatype, shape);
  hold(output, buffer);
  return output;
}

std::unique_ptr<Answer> known_answer(PyObject* item)
{
  PyObject *address, *name, *version, *outputs, *parameters;
  if (!PyArg_ParseTuple(item, "OOOOO", &address, &name, &version, &outputs, &parameters)) {
    throw PythonError{};
  }
  auto answer = std::make_unique<Answer>();
  answer->request = pointer_from<TRITONSERVER_InferenceRequest>(address);
  answer->has_response = true;
  answer->model_name = text_from(name);
  answer->model_version = version_from(version);
  answer->parameters = parameters_from(parameters);
  answer->outputs.reserve(static_cast<size_t>(PySequence_Size(outputs)));
  for_each(outputs, [&](PyObject* output) {
    PyObject *output_name, *datatype, *shape, *buffer;
    if (!PyArg_ParseTuple(output, "OOOO", &output_name, &datatype, &shape, &buffer)) {
      throw PythonError{};
    }
    answer->outputs.push_back(output_from(output_name, datatype, shape, buffer));
  });
  return answer;
}

}  // namespace despina
