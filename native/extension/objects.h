// Between C++ values and Python objects. Everything here needs the interpreter's lock.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core/bridge.h"

namespace despina {

// Thrown where Python has set an error.
struct PythonError {};

// One reference, let go of at the end.
class Ref {
 public:
  explicit Ref(PyObject* object) : object_(object)
  {
    if (object == nullptr) {
      throw PythonError{};
    }
  }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  Ref& operator=(Ref&& other) noexcept
  {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  PyObject* object_;
};

inline Ref borrowed(PyObject* object)
{
  Py_XINCREF(object);
  return Ref(object);
}

Ref text_object(const std::string& text);
Ref number_object(int64_t number);
Ref unsigned_object(uint64_t number);
Ref pointer_object(const void* pointer);
Ref shape_object(const std::vector<int64_t>& shape);
Ref datatype_object(TRITONSERVER_DataType datatype);
Ref texts_object(const std::vector<std::string>& texts);

// Steals the references.
template <class... Items>
Ref tuple_of(Items&&... items)
{
  Ref tuple(PyTuple_New(sizeof...(items)));
  Py_ssize_t place = 0;
  (PyTuple_SetItem(tuple.get(), place++, items.release()), ...);
  return tuple;
}

std::string text_from(PyObject* object);
int64_t number_from(PyObject* object);
uint64_t unsigned_from(PyObject* object);
bool truth_from(PyObject* object);
std::vector<int64_t> shape_from(PyObject* sequence);
TRITONSERVER_DataType datatype_from(PyObject* name);

template <class Object>
Object* pointer_from(PyObject* number)
{
  void* pointer = PyLong_AsVoidPtr(number);
  if (pointer == nullptr) {
    if (PyErr_Occurred() == nullptr) {
      PyErr_SetString(PyExc_ValueError, "null pointer");
    }
    throw PythonError{};
  }
  return static_cast<Object*>(pointer);
}

// Calls with each item of a list or a tuple.
template <class Each>
void for_each(PyObject* sequence, Each&& each)
{
  const Py_ssize_t count = PySequence_Size(sequence);
  if (count < 0) {
    throw PythonError{};
  }
  for (Py_ssize_t place = 0; place < count; ++place) {
    const Ref item(PySequence_GetItem(sequence, place));
    each(item.get());
  }
}

inline Ref item_of(PyObject* sequence, Py_ssize_t place)
{
  return Ref(PySequence_GetItem(sequence, place));
}

Ref parameters_object(const Parameters& parameters);
Parameters parameters_from(PyObject* mapping);

// A version as responses have it.
int64_t version_from(PyObject* text);

// Lets an output have the buffer's bytes: `bytes` and what is large are held, a small view is copied, for it may be of
// something large.
void hold(OutputBytes& output, PyObject* buffer);

OutputBytes output_from(PyObject* name, PyObject* datatype, PyObject* shape, PyObject* buffer);

// An owner that is a `bytes` object, whose reference it has from now on.
void* owner_of_bytes(PyObject* bytes);

void release_owner(void* owner);

// What Python has raised, which is cleared.
std::string taken_error();

// The body of a function of the module.
template <class Body>
PyObject* python_guarded(Body&& body) noexcept
{
  try {
    return body();
  } catch (const PythonError&) {
    return nullptr;
  } catch (const Failure& failure) {
    PyErr_SetString(PyExc_ValueError, failure.text.c_str());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& problem) {
    PyErr_SetString(PyExc_RuntimeError, problem.what());
  }
  return nullptr;
}

// The interpreter is free for others meanwhile.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  ~Released() { PyEval_RestoreThread(state_); }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  PyThreadState* state_;
};

// (code, text), or (-1, None) where the call succeeded.
template <class Call>
Ref outcome_of(Call&& call)
{
  Error* error;
  {
    const Released released;
    error = call();
  }
  if (error == nullptr) {
    return tuple_of(number_object(-1), borrowed(Py_None));
  }
  Ref outcome = tuple_of(number_object(error->code), text_object(error->text));
  TRITONSERVER_ErrorDelete(error);
  return outcome;
}

inline PyObject* none()
{
  return borrowed(Py_None).release();
}

}  // namespace despina
