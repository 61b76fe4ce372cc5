// Requests and answers of one form: they differ in their ids and the bytes of their tensors only. Python hears of a form
// once, and makes something of it that stands for the form from then on. Everything here needs the interpreter's lock.
#pragma once

#include "extension/objects.h"

#include <array>
#include <unordered_map>

namespace despina {

// What stands for each form, by a key that says all of the form.
class FormTable {
 public:
  FormTable() = default;
  FormTable(const FormTable&) = delete;
  FormTable& operator=(const FormTable&) = delete;
  ~FormTable() { clear(); }

  // Borrowed; nullptr for None. `make()` gives a new reference for a key that is new.
  template <class Make>
  PyObject* of(const std::string& key, Make&& make)
  {
    if (last_ == nullptr || key != last_key_) {
      auto found = made_.find(key);
      if (found == made_.end()) {
        if (made_.size() >= kFormsMax) {
          clear();
        }
        PyObject* made = make();
        found = made_.emplace(key, made).first;
      }
      last_key_ = key;
      last_ = found->second;
    }
    return last_ == Py_None ? nullptr : last_;
  }

  // What they stood for is void.
  void clear();

 private:
  static constexpr size_t kFormsMax = 1024;   // clients choose them

  std::unordered_map<std::string, PyObject*> made_;
  std::string last_key_;
  PyObject* last_ = nullptr;
};

// Descriptions of tensors that are mostly like those before them.
class RecentTensors {
 public:
  // The tensor that the objects describe: an earlier one, where it is the same. `reshape(name, shape)` gives the shape
  // that it is to have, where that is another; it is always the same one, or None.
  TensorHandle of(PyObject* name, PyObject* datatype, PyObject* shape, PyObject* reshape = Py_None);

 private:
  struct Met {
    std::vector<int64_t> shape;   // as it was described
    TensorHandle tensor;
  };

  std::array<Met, 8> met_;
  size_t oldest_ = 0;
};

class Forms {
 public:
  // What stands for the form of a request, borrowed; nullptr for one that is like no others. `make(model, version,
  // inputs, outputs)` is asked about a form that is new, and gives None where it wants such requests whole.
  PyObject* of(const TRITONSERVER_InferenceRequest& request, PyObject* make);

  // What they stood for is void.
  void clear() { made_.clear(); }

 private:
  FormTable made_;
  std::string key_;          // of the request that is looked at
};

// What outputs of answers of one form have in common, for a table's key: name, datatype, shape and size in bytes.
void add_output(std::string& key, const BackendOutput& output);

// (ticket, address, id, bytes of the inputs), of a request whose form is known.
Ref known_object(const TRITONSERVER_InferenceRequest& request);

// Its bytes in one piece. Raises Unsupported for GPU memory.
Ref joined(const Input& input);

// Of (address, model, version, outputs, parameters).
std::unique_ptr<Answer> known_answer(PyObject* item);

}  // namespace despina
