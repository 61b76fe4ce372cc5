// What instances have of Python's besides the library's own. Everything here needs the interpreter's lock.
#pragma once

#include "extension/forms.h"

#include "backend/outbox.h"

namespace despina {

// What an instance has met in batches, and mostly meets again.
struct Met {
  Met() = default;
  Met(const Met&) = delete;
  Met& operator=(const Met&) = delete;
  ~Met() { Py_XDECREF(names); }

  RecentTensors inputs;
  PyObject* names = nullptr;         // of outputs, a tuple
  NamesHandle outputs;               // the same
  FormTable answers;
  std::string key;                   // of the answer that is looked at
};

// The instance is gone.
void forget(const TRITONBACKEND_ModelInstance* instance);

}  // namespace despina
