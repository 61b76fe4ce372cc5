// Fails where its parameter `fails` says: `initialize`, `instance`, `execute`, `request`, `silence`; or is `unready`.

#include "reading.h"

namespace {

TRITONSERVER_Error* failure_if(TRITONBACKEND_Model* model, const char* where, const char* text)
{
  std::string fails;
  TRY(read_parameter(model, "fails", &fails));
  return fails == where ? TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, text) : nullptr;
}

TRITONSERVER_Error* failure_if(TRITONBACKEND_ModelInstance* instance, const char* where, const char* text)
{
  TRITONBACKEND_Model* model;
  TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
  return failure_if(model, where, text);
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model)
{
  return failure_if(model, "initialize", "the model does not initialize");
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance)
{
  return failure_if(instance, "instance", "the instance does not initialize");
}

// Asked whenever somebody asks whether the model is ready, also while it executes. Without it an instance is ready.
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReady(TRITONBACKEND_ModelInstance* instance)
{
  return failure_if(instance, "unready", "what the instance needs is not there");
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count)
{
  TRY(failure_if(instance, "execute", "nothing of the batch is executed"));  // the server has the requests still
  TRITONSERVER_Error* silence = failure_if(instance, "silence", "");
  for (uint32_t index = 0; index < count; ++index) {
    if (silence == nullptr) {
      TRITONBACKEND_Response* response;
      TRITONBACKEND_ResponseNew(&response, requests[index]);
      send(response, TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "this request is not answered"));
    }
    TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL);
  }
  TRITONSERVER_ErrorDelete(silence);
  return nullptr;
}

}  // extern "C"
