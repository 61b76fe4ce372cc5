// Traces: objects of the application's, told what happened to a request when it is over.
#pragma once

#include "core/values.h"

struct TRITONSERVER_InferenceTrace {
  uint64_t id = 0;
  uint64_t parent_id = 0;
  uint32_t level = 0;
  std::string model_name;
  int64_t model_version = -1;
  std::string request_id;
  std::string context;
  TRITONSERVER_InferenceTraceActivityFn_t activity_fn = nullptr;
  TRITONSERVER_InferenceTraceTensorActivityFn_t tensor_fn = nullptr;
  TRITONSERVER_InferenceTraceReleaseFn_t release_fn = nullptr;
  void* userp = nullptr;
};

namespace despina {

// One moment, or one tensor, of a traced request, or of one that it has caused: those have a depth and follow it.
struct TraceReport {
  enum Kind { kMoment, kTensor, kChild, kChildEnd };
  Kind kind = kMoment;
  TRITONSERVER_InferenceTraceActivity activity = TRITONSERVER_TRACE_REQUEST_START;
  uint64_t ns = 0;
  Tensor tensor;             // of kTensor; of kChild the name is the model's
  std::string bytes;         // of kTensor; of kChild the request's id
  int64_t version = 0;       // of kChild
};

// Tells the application, and lets go of the trace.
void report(TRITONSERVER_InferenceTrace* trace, const std::vector<TraceReport>& reports);

}  // namespace despina
