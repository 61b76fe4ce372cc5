#include "core/trace.h"

#include <atomic>

using namespace despina;

using Trace = TRITONSERVER_InferenceTrace;

namespace {

std::atomic<uint64_t> last_trace_id{0};

constexpr uint32_t kTimestamps = TRITONSERVER_TRACE_LEVEL_TIMESTAMPS | TRITONSERVER_TRACE_LEVEL_MIN |
                                 TRITONSERVER_TRACE_LEVEL_MAX;

void new_trace(
    Trace** trace, TRITONSERVER_InferenceTraceLevel level, uint64_t parent_id,
    TRITONSERVER_InferenceTraceActivityFn_t activity_fn, TRITONSERVER_InferenceTraceTensorActivityFn_t tensor_fn,
    TRITONSERVER_InferenceTraceReleaseFn_t release_fn, void* userp)
{
  auto made = std::make_unique<Trace>();
  made->id = ++last_trace_id;
  made->parent_id = parent_id;
  made->level = static_cast<uint32_t>(level);
  made->activity_fn = activity_fn;
  made->tensor_fn = tensor_fn;
  made->release_fn = release_fn;
  made->userp = userp;
  *trace = made.release();
}

Trace* child_of(const Trace& parent)
{
  auto made = std::make_unique<Trace>(parent);
  made->id = ++last_trace_id;
  made->parent_id = parent.id;
  return made.release();
}

void release(Trace* trace)
{
  if (trace->release_fn != nullptr) {
    trace->release_fn(trace, trace->userp);
  }
}

void tell(Trace* trace, const TraceReport& report)
{
  if (report.kind == TraceReport::kMoment) {
    if ((trace->level & kTimestamps) != 0 && trace->activity_fn != nullptr) {
      trace->activity_fn(trace, report.activity, report.ns, trace->userp);
    }
  } else if ((trace->level & TRITONSERVER_TRACE_LEVEL_TENSORS) != 0 && trace->tensor_fn != nullptr) {
    trace->tensor_fn(
        trace, report.activity, report.tensor.name.c_str(), report.tensor.datatype, report.bytes.data(),
        report.bytes.size(), report.tensor.shape.data(), report.tensor.shape.size(), TRITONSERVER_MEMORY_CPU, 0,
        trace->userp);
  }
}

}  // namespace

namespace despina {

void report(Trace* trace, const std::vector<TraceReport>& reports)
{
  std::vector<Trace*> open{trace};
  for (const TraceReport& report : reports) {
    if (report.kind == TraceReport::kChild) {
      Trace* child = child_of(*open.back());
      child->model_name = report.tensor.name;
      child->model_version = report.version;
      child->request_id = report.bytes;
      open.push_back(child);
    } else if (report.kind == TraceReport::kChildEnd) {
      release(open.back());
      open.pop_back();
    } else {
      tell(open.back(), report);
    }
  }
  release(trace);
}

}  // namespace despina

extern "C" {

const char* TRITONSERVER_InferenceTraceLevelString(TRITONSERVER_InferenceTraceLevel level)
{
  switch (level) {
    case TRITONSERVER_TRACE_LEVEL_DISABLED:
      return "DISABLED";
    case TRITONSERVER_TRACE_LEVEL_MIN:
      return "MIN";
    case TRITONSERVER_TRACE_LEVEL_MAX:
      return "MAX";
    case TRITONSERVER_TRACE_LEVEL_TIMESTAMPS:
      return "TIMESTAMPS";
    case TRITONSERVER_TRACE_LEVEL_TENSORS:
      return "TENSORS";
    default:
      return "<unknown>";
  }
}

const char* TRITONSERVER_InferenceTraceActivityString(TRITONSERVER_InferenceTraceActivity activity)
{
  static const char* const names[] = {
      "REQUEST_START",      "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END",  "COMPUTE_OUTPUT_START",
      "COMPUTE_END",        "REQUEST_END", "TENSOR_QUEUE_INPUT", "TENSOR_BACKEND_INPUT", "TENSOR_BACKEND_OUTPUT",
      "CUSTOM_ACTIVITY"};
  return activity >= 0 && activity <= TRITONSERVER_TRACE_CUSTOM_ACTIVITY ? names[activity] : "<unknown>";
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceNew(
    TRITONSERVER_InferenceTrace** trace, TRITONSERVER_InferenceTraceLevel level, uint64_t parent_id,
    TRITONSERVER_InferenceTraceActivityFn_t activity_fn, TRITONSERVER_InferenceTraceReleaseFn_t release_fn,
    void* trace_userp)
{
  return guarded([&] { new_trace(trace, level, parent_id, activity_fn, nullptr, release_fn, trace_userp); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceTensorNew(
    TRITONSERVER_InferenceTrace** trace, TRITONSERVER_InferenceTraceLevel level, uint64_t parent_id,
    TRITONSERVER_InferenceTraceActivityFn_t activity_fn,
    TRITONSERVER_InferenceTraceTensorActivityFn_t tensor_activity_fn, TRITONSERVER_InferenceTraceReleaseFn_t release_fn,
    void* trace_userp)
{
  return guarded(
      [&] { new_trace(trace, level, parent_id, activity_fn, tensor_activity_fn, release_fn, trace_userp); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceReportActivity(
    TRITONSERVER_InferenceTrace* trace, uint64_t timestamp, const char* activity_name)
{
  return guarded([&] {
    Trace& told = need(trace, "trace");
    need(activity_name, "activity name");
    TraceReport custom;
    custom.activity = TRITONSERVER_TRACE_CUSTOM_ACTIVITY;
    custom.ns = timestamp;
    tell(&told, custom);
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceDelete(TRITONSERVER_InferenceTrace* trace)
{
  delete trace;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceId(TRITONSERVER_InferenceTrace* trace, uint64_t* id)
{
  return guarded([&] { *id = need(trace, "trace").id; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceParentId(TRITONSERVER_InferenceTrace* trace, uint64_t* parent_id)
{
  return guarded([&] { *parent_id = need(trace, "trace").parent_id; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceModelName(TRITONSERVER_InferenceTrace* trace, const char** model_name)
{
  return guarded([&] { *model_name = need(trace, "trace").model_name.c_str(); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceModelVersion(
    TRITONSERVER_InferenceTrace* trace, int64_t* model_version)
{
  return guarded([&] { *model_version = need(trace, "trace").model_version; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceRequestId(TRITONSERVER_InferenceTrace* trace, const char** request_id)
{
  return guarded([&] { *request_id = need(trace, "trace").request_id.c_str(); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceSpawnChildTrace(
    TRITONSERVER_InferenceTrace* trace, TRITONSERVER_InferenceTrace** child_trace)
{
  return guarded([&] { *child_trace = child_of(need(trace, "trace")); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceSetContext(
    TRITONSERVER_InferenceTrace* trace, const char* trace_context)
{
  return guarded([&] { need(trace, "trace").context = text_of(trace_context); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceContext(TRITONSERVER_InferenceTrace* trace, const char** trace_context)
{
  return guarded([&] { *trace_context = need(trace, "trace").context.c_str(); });
}

}  // extern "C"
