// Decoupled, on a thread of its own: answers COUNT - 1, ..., 0, then ends the stream. Stops when the caller has left.

#include "reading.h"

#include <atomic>
#include <chrono>
#include <thread>

namespace {

std::atomic<int> counting{0};

void count_down(TRITONBACKEND_ResponseFactory* factory, int32_t count)
{
  bool left = false;
  while (!left && --count >= 0) {
    TRITONBACKEND_Response* response;
    TRITONBACKEND_ResponseNewFromFactory(&response, factory);
    send(response, write_output(response, "INDEX", TRITONSERVER_TYPE_INT32, {1}, &count, sizeof count), 0);
    TRITONBACKEND_ResponseFactoryIsCancelled(factory, &left);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  TRITONBACKEND_ResponseFactorySendFlags(factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL);
  TRITONBACKEND_ResponseFactoryDelete(factory);
  --counting;
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request** requests, const uint32_t request_count)
{
  for (uint32_t index = 0; index < request_count; ++index) {
    Input input;
    TRITONBACKEND_ResponseFactory* factory;
    TRY(read_input(requests[index], "COUNT", &input));
    TRY(TRITONBACKEND_ResponseFactoryNew(&factory, requests[index]));
    int32_t count;
    std::memcpy(&count, input.bytes.data(), sizeof count);
    ++counting;
    std::thread(count_down, factory, count).detach();
    TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL);  // the factory goes on
  }
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance*)
{
  while (counting != 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return nullptr;
}

}  // extern "C"
