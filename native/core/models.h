// The models that are ready, as Python has published them: what lets most requests in without asking Python.
#pragma once

#include "core/values.h"

#include <mutex>

namespace despina {

struct InputRule {
  Tensor tensor;             // the shape without the batch dimension; -1 is anything
  bool optional = false;
  bool by_rows = false;      // it has a batch dimension
};

struct OutputRule {
  std::string name;
  std::vector<std::string> labels;
};

struct Model {
  std::string name;
  int64_t version = 0;
  bool latest = false;       // of those that are ready
  bool remembers = false;    // it is of sequences
  bool decoupled = false;
  int64_t max_batch_size = 0;
  std::vector<InputRule> inputs;
  std::vector<OutputRule> outputs;

  const InputRule* input(const std::string& name) const;
  const OutputRule* output(const std::string& name) const;
};

using ModelHandle = std::shared_ptr<const Model>;

class Models {
 public:
  void publish(std::vector<ModelHandle> models);

  // The one of that version, or, with -1, the latest; null if it is not known to be ready.
  ModelHandle find(const std::string& name, int64_t version) const;

 private:
  mutable std::mutex mutex_;
  std::vector<ModelHandle> models_;
};

}  // namespace despina

struct TRITONSERVER_InferenceRequest;

namespace despina {

// Whether the model is sure to take the request. False only means that Python must be asked, which has the words.
bool surely_admits(const Model& model, const TRITONSERVER_InferenceRequest& request);

}  // namespace despina
