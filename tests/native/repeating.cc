// Has each request executed as often as IN says: the state counts, and the last execution answers with the count.

#include "reading.h"

namespace {

TRITONSERVER_Error* number(TRITONBACKEND_Request* request, const char* name, int32_t* value, Input* input)
{
  TRY(read_input(request, name, input));
  std::memcpy(value, input->bytes.data(), sizeof *value);
  return nullptr;
}

TRITONSERVER_Error* execute(TRITONBACKEND_Request* request)
{
  Input in, old;
  int32_t wanted, rounds;
  TRY(number(request, "IN", &wanted, &in));
  TRY(number(request, "OLD", &rounds, &old));
  ++rounds;
  if (rounds < wanted) {
    TRITONBACKEND_State* state;
    void* buffer;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0;
    TRY(TRITONBACKEND_StateNew(&state, request, "NEW", old.datatype, old.shape.data(), old.shape.size()));
    TRY(TRITONBACKEND_StateBuffer(state, &buffer, sizeof rounds, &type, &id));
    std::memcpy(buffer, &rounds, sizeof rounds);
    TRY(TRITONBACKEND_StateUpdate(state));
    return TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_RESCHEDULE);
  }
  TRITONBACKEND_Response* response;
  TRY(TRITONBACKEND_ResponseNew(&response, request));
  send(response, write_output(response, "OUT", in.datatype, in.shape, &rounds, sizeof rounds));
  return TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL);
}

}  // namespace

extern "C" TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request** requests, const uint32_t count)
{
  for (uint32_t index = 0; index < count; ++index) {
    TRY(execute(requests[index]));
  }
  return nullptr;
}
