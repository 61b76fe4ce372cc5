#include "core/models.h"

#include "core/request.h"

#include <algorithm>
#include <cstring>

namespace despina {

const InputRule* Model::input(const std::string& wanted) const
{
  for (const InputRule& rule : inputs) {
    if (rule.tensor.name == wanted) {
      return &rule;
    }
  }
  return nullptr;
}

const OutputRule* Model::output(const std::string& wanted) const
{
  for (const OutputRule& rule : outputs) {
    if (rule.name == wanted) {
      return &rule;
    }
  }
  return nullptr;
}

void Models::publish(std::vector<ModelHandle> models)
{
  std::lock_guard<std::mutex> lock(mutex_);
  models_.swap(models);
}

ModelHandle Models::find(const std::string& name, int64_t version) const
{
  std::lock_guard<std::mutex> lock(mutex_);
  for (const ModelHandle& model : models_) {
    if (model->name == name && (version == -1 ? model->latest : model->version == version)) {
      return model;
    }
  }
  return nullptr;
}

namespace {

// Whether BYTES elements in one piece are as many as the shape says.
bool elements_fit(const Piece& piece, int64_t count)
{
  const char* at = static_cast<const char*>(piece.base);
  const char* end = at + piece.byte_size;
  for (; count > 0; --count) {
    uint32_t size;
    if (end - at < 4) {
      return false;
    }
    std::memcpy(&size, at, 4);
    at += 4;
    if (size > static_cast<uint64_t>(end - at)) {
      return false;
    }
    at += size;
  }
  return at == end;
}

// The number of elements of an input that is as its rule says, or -1.
int64_t elements_if_fitting(const Input& input, const InputRule& rule)
{
  const std::vector<int64_t>& shape = input.tensor.shape;
  const std::vector<int64_t>& dims = rule.tensor.shape;
  const size_t first = rule.by_rows ? 1 : 0;
  if (input.raw || input.tensor.datatype != rule.tensor.datatype || shape.size() != dims.size() + first) {
    return -1;
  }
  int64_t count = rule.by_rows ? shape[0] : 1;
  for (size_t place = 0; place < dims.size(); ++place) {
    const int64_t size = shape[place + first];
    if (size < 0 || (dims[place] != -1 && dims[place] != size) || __builtin_mul_overflow(count, size, &count)) {
      return -1;
    }
  }
  return count;
}

bool bytes_fit(const Input& input, int64_t elements)
{
  for (const Piece& piece : input.pieces) {
    if (piece.memory_type == TRITONSERVER_MEMORY_GPU) {
      return false;
    }
  }
  const uint32_t size = kDataTypeSizes[input.tensor.datatype];
  if (size != 0) {
    return input.byte_size == static_cast<uint64_t>(elements) * size;
  }
  return input.pieces.size() == 1 && elements_fit(input.pieces.front(), elements);
}

}  // namespace

bool surely_admits(const Model& model, const TRITONSERVER_InferenceRequest& request)
{
  int64_t rows = -1;
  size_t required = 0;
  for (const InputRule& rule : model.inputs) {
    required += rule.optional ? 0 : 1;
  }
  for (const Input& input : request.inputs) {
    const InputRule* rule = model.input(input.tensor.name);
    if (rule == nullptr) {
      return false;
    }
    const int64_t elements = elements_if_fitting(input, *rule);
    if (elements < 0 || !bytes_fit(input, elements)) {
      return false;
    }
    if (rule->by_rows) {
      const int64_t mine = input.tensor.shape[0];
      if (mine < 1 || mine > model.max_batch_size || (rows != -1 && rows != mine)) {
        return false;
      }
      rows = mine;
    }
    required -= rule->optional ? 0 : 1;
  }
  if (required != 0) {
    return false;
  }
  if (model.remembers && request.correlation_id == 0 && request.correlation_text.empty()) {
    return false;
  }
  return std::all_of(request.outputs.begin(), request.outputs.end(), [&](const std::string& name) {
    return model.output(name) != nullptr;
  });
}

}  // namespace despina
