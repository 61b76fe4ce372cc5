// Requests of one form: alike in all but their ids and the bytes of their inputs. Python hears of a form once, and makes
// something of it that stands for the form from then on. Everything here needs the interpreter's lock.
#pragma once

#include "extension/objects.h"

#include <unordered_map>

namespace despina {

class Forms {
 public:
  Forms() = default;
  Forms(const Forms&) = delete;
  Forms& operator=(const Forms&) = delete;
  ~Forms() { clear(); }

  // What stands for the form of a request, borrowed; nullptr for one that is like no others. `make(model, version,
  // inputs, outputs)` is asked about a form that is new, and gives None where it wants such requests whole.
  PyObject* of(const TRITONSERVER_InferenceRequest& request, PyObject* make);

  // What they stood for is void.
  void clear();

 private:
  std::unordered_map<std::string, PyObject*> made_;
  std::string key_;          // of the request that is looked at
  std::string last_key_;
  PyObject* last_ = nullptr;
};

// (ticket, address, id, bytes of the inputs), of a request whose form is known.
Ref usual_object(const TRITONSERVER_InferenceRequest& request);

// Its bytes in one piece. Raises Unsupported for GPU memory.
Ref joined(const Input& input);

// Of (address, model, version, outputs, parameters).
std::unique_ptr<Answer> usual_answer(PyObject* item);

}  // namespace despina
