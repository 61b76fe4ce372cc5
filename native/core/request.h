// One request of an application, from its making to its release.
#pragma once

#include "core/models.h"
#include "core/values.h"

#include <atomic>
#include <list>

struct TRITONSERVER_Server;

namespace despina {

struct Input {
  Tensor tensor;
  bool raw = false;
  std::vector<Piece> pieces;
  uint64_t byte_size = 0;
};

}  // namespace despina

struct TRITONSERVER_InferenceRequest {
  TRITONSERVER_Server* server = nullptr;
  std::string model_name;
  int64_t model_version = -1;
  std::string id;
  uint32_t flags = 0;
  uint64_t correlation_id = 0;
  std::string correlation_text;      // takes the place of the number if it is not empty
  uint64_t priority = 0;
  uint64_t timeout_us = 0;
  std::list<despina::Input> inputs;  // the addresses of inputs stay
  std::vector<std::string> outputs;
  despina::Parameters parameters;
  TRITONSERVER_InferenceRequestReleaseFn_t release_fn = nullptr;
  void* release_userp = nullptr;
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  void* allocator_userp = nullptr;
  TRITONSERVER_InferenceResponseCompleteFn_t response_fn = nullptr;
  void* response_userp = nullptr;
  TRITONSERVER_InferenceTrace* trace = nullptr;
  despina::ModelHandle model;        // what it was found to be for, while it is in flight
  uint64_t ticket = 0;               // of this flight; never twice the same
  std::atomic<bool> in_flight{false};
  std::atomic<bool> cancelled{false};

  despina::Input* input(const std::string& name);
};
