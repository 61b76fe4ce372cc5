// A sequence's running sum: the state SUM_IN is among the inputs, and SUM_OUT is kept for the next request.

#include "reading.h"

namespace {

TRITONSERVER_Error* add(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response)
{
  Input value, sum;
  TRY(read_input(request, "VALUE", &value));
  TRY(read_input(request, "SUM_IN", &sum));
  int32_t one, total;
  std::memcpy(&one, value.bytes.data(), sizeof one);
  std::memcpy(&total, sum.bytes.data(), sizeof total);
  total += one;

  TRITONBACKEND_State* state;
  void* buffer;
  TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
  int64_t id = 0;
  TRY(TRITONBACKEND_StateNew(&state, request, "SUM_OUT", sum.datatype, sum.shape.data(), sum.shape.size()));
  TRY(TRITONBACKEND_StateBuffer(state, &buffer, sizeof total, &type, &id));
  std::memcpy(buffer, &total, sizeof total);
  TRY(TRITONBACKEND_StateUpdate(state));
  return write_output(response, "SUM", TRITONSERVER_TYPE_INT32, value.shape, &total, sizeof total);
}

}  // namespace

extern "C" TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request** requests, const uint32_t count)
{
  return answer_each(requests, count, add);
}
