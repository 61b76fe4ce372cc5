// Answers each request from a thread of its own, after `execute` has returned: OUTPUT0 is INPUT0.

#include "reading.h"

#include <chrono>
#include <thread>

namespace {

void answer_later(TRITONBACKEND_Request* request)
{
  Input input;
  TRITONBACKEND_Response* response;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  TRITONBACKEND_ResponseNew(&response, request);
  TRITONSERVER_Error* error = read_input(request, "INPUT0", &input);
  if (error == nullptr) {
    error = write_output(response, "OUTPUT0", input.datatype, input.shape, input.bytes.data(), input.bytes.size());
  }
  TRITONBACKEND_ResponseSetStringParameter(response, "late", "yes");
  send(response, error);
  TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL);
}

}  // namespace

extern "C" TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request** requests, const uint32_t count)
{
  for (uint32_t index = 0; index < count; ++index) {
    std::thread(answer_later, requests[index]).detach();
  }
  return nullptr;
}
