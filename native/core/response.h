// A response as the application sees it. Its outputs lie in buffers that the application has allocated.
#pragma once

#include "core/request.h"

namespace despina {

struct Output {
  TensorHandle tensor;
  void* base = nullptr;
  size_t byte_size = 0;
  TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
  int64_t memory_type_id = 0;
  void* userp = nullptr;
  bool allocated = false;
};

}  // namespace despina

struct TRITONSERVER_InferenceResponse {
  std::string request_id;
  std::string model_name;
  int64_t model_version = 0;
  despina::ModelHandle model;        // for the labels of its outputs
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  std::vector<despina::Output> outputs;
  despina::Parameters parameters;
  std::unique_ptr<TRITONSERVER_Error> error;

  ~TRITONSERVER_InferenceResponse() { release_outputs(); }

  // Gives the buffers back to the application.
  void release_outputs() noexcept;
};
