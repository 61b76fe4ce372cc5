// OUTPUT0 is INPUT0. Counts its batches in a metric, reports when it computed, and logs a line.

#include "reading.h"

namespace {

TRITONSERVER_MetricFamily* family;
TRITONSERVER_Metric* batches;

TRITONSERVER_Error* answer(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response)
{
  Input input;
  bool wanted;
  TRY(is_wanted(request, "OUTPUT0", &wanted));
  if (!wanted) {
    return nullptr;
  }
  TRY(read_input(request, "INPUT0", &input));
  return write_output(response, "OUTPUT0", input.datatype, input.shape, input.bytes.data(), input.bytes.size());
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend*)
{
  TRITONSERVER_LogMessage(TRITONSERVER_LOG_INFO, __FILE__, __LINE__, "identity is there");
  TRY(TRITONSERVER_MetricFamilyNew(&family, TRITONSERVER_METRIC_KIND_COUNTER, "identity_batches", "Batches executed."));
  return TRITONSERVER_MetricNew(&batches, family, nullptr, 0);
}

TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend*)
{
  TRY(TRITONSERVER_MetricDelete(batches));
  return TRITONSERVER_MetricFamilyDelete(family);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count)
{
  const uint64_t started = now_ns();
  for (uint32_t index = 0; index < count; ++index) {
    TRITONBACKEND_Response* response;
    TRY(TRITONBACKEND_ResponseNew(&response, requests[index]));
    send(response, answer(requests[index], response));
  }
  const uint64_t ended = now_ns();
  TRITONSERVER_MetricIncrement(batches, 1);
  TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, count, started, started, ended, ended);
  for (uint32_t index = 0; index < count; ++index) {
    TRITONBACKEND_ModelInstanceReportStatistics(instance, requests[index], true, started, started, ended, ended);
    TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL);
  }
  return nullptr;
}

}  // extern "C"
