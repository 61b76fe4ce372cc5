#include "extension/objects.h"

#include <cstdlib>
#include <cstring>

namespace despina {

namespace {

constexpr Py_ssize_t kCopiedBytes = 16 * 1024;
constexpr const char* kNames[15] = {"<invalid>", "BOOL",  "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16",
                                    "INT32",     "INT64", "FP16",  "FP32",   "FP64",   "BYTES",  "BF16"};
PyObject* name_objects[15];

}  // namespace

Ref text_object(const std::string& text)
{
  return Ref(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

Ref number_object(int64_t number)
{
  return Ref(PyLong_FromLongLong(number));
}

Ref unsigned_object(uint64_t number)
{
  return Ref(PyLong_FromUnsignedLongLong(number));
}

Ref pointer_object(const void* pointer)
{
  return Ref(PyLong_FromVoidPtr(const_cast<void*>(pointer)));
}

Ref shape_object(const std::vector<int64_t>& shape)
{
  Ref tuple(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
  Py_ssize_t place = 0;
  for (const int64_t size : shape) {
    PyTuple_SetItem(tuple.get(), place++, number_object(size).release());
  }
  return tuple;
}

Ref datatype_object(TRITONSERVER_DataType datatype)
{
  PyObject*& name = name_objects[datatype];
  if (name == nullptr) {
    name = PyUnicode_InternFromString(kNames[datatype]);
  }
  return borrowed(name);
}

std::string text_from(PyObject* object)
{
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object, &size);
  if (text == nullptr) {
    throw PythonError{};
  }
  return std::string(text, static_cast<size_t>(size));
}

int64_t number_from(PyObject* object)
{
  const long long number = PyLong_AsLongLong(object);
  if (number == -1 && PyErr_Occurred() != nullptr) {
    throw PythonError{};
  }
  return number;
}

uint64_t unsigned_from(PyObject* object)
{
  const unsigned long long number = PyLong_AsUnsignedLongLong(object);
  if (number == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    throw PythonError{};
  }
  return number;
}

bool truth_from(PyObject* object)
{
  const int truth = PyObject_IsTrue(object);
  if (truth < 0) {
    throw PythonError{};
  }
  return truth != 0;
}

std::vector<int64_t> shape_from(PyObject* sequence)
{
  std::vector<int64_t> shape;
  for_each(sequence, [&](PyObject* size) { shape.push_back(number_from(size)); });
  return shape;
}

TRITONSERVER_DataType datatype_from(PyObject* name)
{
  for (int number = 1; number < 15; ++number) {
    if (name == name_objects[number]) {
      return static_cast<TRITONSERVER_DataType>(number);
    }
  }
  const std::string text = text_from(name);
  for (int number = 1; number < 15; ++number) {
    if (text == kNames[number]) {
      return static_cast<TRITONSERVER_DataType>(number);
    }
  }
  return TRITONSERVER_TYPE_INVALID;
}

Ref texts_object(const std::vector<std::string>& texts)
{
  Ref tuple(PyTuple_New(static_cast<Py_ssize_t>(texts.size())));
  Py_ssize_t place = 0;
  for (const std::string& text : texts) {
    PyTuple_SetItem(tuple.get(), place++, text_object(text).release());
  }
  return tuple;
}

Ref parameters_object(const Parameters& parameters)
{
  if (parameters.empty()) {
    return borrowed(Py_None);
  }
  Ref mapping(PyDict_New());
  for (const Parameter& parameter : parameters) {
    Ref value = parameter.type == TRITONSERVER_PARAMETER_INT      ? number_object(parameter.integer)
                : parameter.type == TRITONSERVER_PARAMETER_BOOL   ? Ref(PyBool_FromLong(parameter.truth))
                : parameter.type == TRITONSERVER_PARAMETER_DOUBLE ? Ref(PyFloat_FromDouble(parameter.real))
                                                                  : text_object(parameter.text);
    const Ref name = text_object(parameter.name);
    if (PyDict_SetItem(mapping.get(), name.get(), value.get()) < 0) {
      throw PythonError{};
    }
  }
  return mapping;
}

Parameters parameters_from(PyObject* mapping)
{
  Parameters parameters;
  if (mapping == Py_None) {
    return parameters;
  }
  const Ref items(PyMapping_Items(mapping));
  for_each(items.get(), [&](PyObject* item) {
    const std::string name = text_from(item_of(item, 0).get());
    const Ref value = item_of(item, 1);
    if (value.get() == Py_True || value.get() == Py_False) {
      parameters.push_back(named_truth(name, value.get() == Py_True));
    } else if (PyLong_Check(value.get())) {
      parameters.push_back(named_integer(name, number_from(value.get())));
    } else if (PyFloat_Check(value.get())) {
      parameters.push_back(named_real(name, PyFloat_AsDouble(value.get())));
    } else {
      parameters.push_back(named_string(name, text_from(value.get())));
    }
  });
  return parameters;
}

int64_t version_from(PyObject* text)
{
  Py_ssize_t size = 0;
  const char* digits = PyUnicode_AsUTF8AndSize(text, &size);
  if (digits == nullptr) {
    throw PythonError{};
  }
  return std::strtoll(digits, nullptr, 10);
}

// An owner is a view, or, marked in its lowest bit, a bytes object: that needs none, and nothing to be allocated.

void hold(OutputBytes& output, PyObject* buffer)
{
  if (PyBytes_CheckExact(buffer)) {
    output.base = PyBytes_AsString(buffer);
    output.byte_size = static_cast<size_t>(PyBytes_Size(buffer));
    Py_INCREF(buffer);
    output.owner = owner_of_bytes(buffer);
    return;
  }
  auto view = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(buffer, view.get(), PyBUF_SIMPLE) < 0) {
    throw PythonError{};
  }
  output.byte_size = static_cast<size_t>(view->len);
  if (view->len > kCopiedBytes) {
    output.base = view->buf;
    output.owner = view.release();
  } else {
    output.copy.assign(static_cast<const char*>(view->buf), output.byte_size);
    PyBuffer_Release(view.get());
  }
}

void* owner_of_bytes(PyObject* bytes)
{
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(bytes) | 1);
}

void release_owner(void* owner)
{
  const uintptr_t address = reinterpret_cast<uintptr_t>(owner);
  if ((address & 1) != 0) {
    Py_DECREF(reinterpret_cast<PyObject*>(address & ~uintptr_t{1}));
    return;
  }
  const std::unique_ptr<Py_buffer> view(static_cast<Py_buffer*>(owner));
  PyBuffer_Release(view.get());
}

std::string taken_error()
{
  PyObject *kind, *value, *trace;
  PyErr_Fetch(&kind, &value, &trace);
  PyErr_NormalizeException(&kind, &value, &trace);
  PyObject* words = value == nullptr ? nullptr : PyObject_Str(value);
  Py_ssize_t size = 0;
  const char* text = words == nullptr ? nullptr : PyUnicode_AsUTF8AndSize(words, &size);
  std::string taken = text == nullptr ? "what is wrong cannot be said" : std::string(text, static_cast<size_t>(size));
  PyErr_Clear();
  Py_XDECREF(words);
  Py_XDECREF(kind);
  Py_XDECREF(value);
  Py_XDECREF(trace);
  return taken;
}

}  // namespace despina
