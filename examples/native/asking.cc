// Asks another model of the same server, which its parameter `asks` names: OUTPUT0 is that model's answer to INPUT0.

#include "asking.h"

#include <future>

namespace {

// Once, for the other model has one response; on a thread of the server's.
void on_response(TRITONSERVER_InferenceResponse* response, const uint32_t, void* userp)
{
  auto* responses = static_cast<std::promise<TRITONSERVER_InferenceResponse*>*>(userp);
  responses->set_value(response);
  delete responses;
}

TRITONSERVER_Error* ask(
    TRITONSERVER_Server* server, const char* model, TRITONBACKEND_Request* asked, TRITONBACKEND_Response* response)
{
  Input input;
  TRITONSERVER_ResponseAllocator* allocator;
  TRITONSERVER_InferenceRequest* request;
  TRY(read_input(asked, "INPUT0", &input));
  TRY(TRITONSERVER_InferenceRequestNew(&request, server, model, -1));
  TRITONSERVER_ResponseAllocatorNew(&allocator, allocate, release, nullptr);
  TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", input.datatype, input.shape.data(), input.shape.size());
  TRITONSERVER_InferenceRequestAppendInputData(
      request, "INPUT0", input.bytes.data(), input.bytes.size(), TRITONSERVER_MEMORY_CPU, 0);
  auto* responses = new std::promise<TRITONSERVER_InferenceResponse*>;  // until it has been told
  std::future<TRITONSERVER_InferenceResponse*> answered = responses->get_future();
  TRITONSERVER_InferenceRequestSetReleaseCallback(request, on_release, nullptr);
  TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, nullptr, on_response, responses);
  TRITONSERVER_Error* error = TRITONSERVER_ServerInferAsync(server, request, nullptr);
  if (error != nullptr) {
    TRITONSERVER_InferenceRequestDelete(request);  // it is ours still, and no callback follows
    delete responses;
  } else {
    TRITONSERVER_InferenceResponse* answer = answered.get();
    error = pass_on(answer, response);
    TRITONSERVER_InferenceResponseDelete(answer);
  }
  TRITONSERVER_ResponseAllocatorDelete(allocator);
  return error;
}

}  // namespace

extern "C" TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count)
{
  TRITONBACKEND_Model* model;
  TRITONSERVER_Server* server;
  std::string other;
  TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
  TRY(TRITONBACKEND_ModelServer(model, &server));
  TRY(read_parameter(model, "asks", &other));
  return answer_each(requests, count, [&](TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
    return ask(server, other.c_str(), request, response);
  });
}
