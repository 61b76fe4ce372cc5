// A backend that asks the server what INPUT0 says, `<what> <model>`, or `count <number>` of a stream; OUTPUT0 is the answer's text.

#include "asking.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>

namespace {

TRITONSERVER_Error* truth(bool value, std::string* text)
{
  *text = value ? "true" : "false";
  return nullptr;
}

TRITONSERVER_Error* message(TRITONSERVER_Error* error, TRITONSERVER_Message** made, std::string* text)
{
  TRY(error);
  const char* base;
  size_t size;
  TRY(TRITONSERVER_MessageSerializeToJson(*made, &base, &size));
  text->assign(base, size);
  return TRITONSERVER_MessageDelete(*made);
}

// Responses of one stream.
struct Stream {
  std::mutex mutex;
  std::condition_variable ended;
  int responses = 0;
  bool final = false;
};

void on_response(TRITONSERVER_InferenceResponse* response, const uint32_t flags, void* userp)
{
  Stream& stream = *static_cast<Stream*>(userp);
  std::lock_guard<std::mutex> lock(stream.mutex);
  if (response != nullptr) {
    stream.responses += TRITONSERVER_InferenceResponseError(response) == nullptr;
    TRITONSERVER_InferenceResponseDelete(response);
  }
  stream.final = (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
  stream.ended.notify_all();
}

TRITONSERVER_Error* count_responses(TRITONSERVER_Server* server, int32_t count, std::string* text)
{
  const int64_t shape[1] = {1};
  Stream stream;
  TRITONSERVER_ResponseAllocator* allocator;
  TRITONSERVER_InferenceRequest* request;
  TRY(TRITONSERVER_ResponseAllocatorNew(&allocator, allocate, release, nullptr));
  TRY(TRITONSERVER_InferenceRequestNew(&request, server, "countdown", -1));
  TRY(TRITONSERVER_InferenceRequestAddInput(request, "COUNT", TRITONSERVER_TYPE_INT32, shape, 1));
  TRY(TRITONSERVER_InferenceRequestAppendInputData(
      request, "COUNT", &count, sizeof count, TRITONSERVER_MEMORY_CPU, 0));
  TRY(TRITONSERVER_InferenceRequestSetReleaseCallback(request, on_release, nullptr));
  TRY(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, nullptr, on_response, &stream));
  TRY(TRITONSERVER_ServerInferAsync(server, request, nullptr));
  {
    std::unique_lock<std::mutex> lock(stream.mutex);
    stream.ended.wait(lock, [&] { return stream.final; });
  }
  *text = std::to_string(stream.responses);
  return TRITONSERVER_ResponseAllocatorDelete(allocator);
}

TRITONSERVER_Error* ask(TRITONSERVER_Server* server, const std::string& what, const char* model, std::string* text)
{
  bool yes;
  uint32_t flags;
  TRITONSERVER_Message* json = nullptr;
  if (what == "count") {
    return count_responses(server, std::atoi(model), text);
  }
  if (what == "live") {
    TRY(TRITONSERVER_ServerIsLive(server, &yes));
    return truth(yes, text);
  }
  if (what == "ready") {
    TRY(TRITONSERVER_ServerIsReady(server, &yes));
    return truth(yes, text);
  }
  if (what == "model-ready") {
    TRY(TRITONSERVER_ServerModelIsReady(server, model, -1, &yes));
    return truth(yes, text);
  }
  if (what == "decoupled") {
    TRY(TRITONSERVER_ServerModelTransactionProperties(server, model, -1, &flags, nullptr));
    return truth(flags == TRITONSERVER_TXN_DECOUPLED, text);
  }
  if (what == "batches") {
    TRY(TRITONSERVER_ServerModelBatchProperties(server, model, -1, &flags, nullptr));
    return truth(flags == TRITONSERVER_BATCH_FIRST_DIM, text);
  }
  if (what == "metadata") {
    return message(TRITONSERVER_ServerMetadata(server, &json), &json, text);
  }
  if (what == "model-metadata") {
    return message(TRITONSERVER_ServerModelMetadata(server, model, -1, &json), &json, text);
  }
  if (what == "config") {
    return message(TRITONSERVER_ServerModelConfig(server, model, -1, 1, &json), &json, text);
  }
  if (what == "statistics") {
    return message(TRITONSERVER_ServerModelStatistics(server, model, -1, &json), &json, text);
  }
  if (what == "index") {
    return message(TRITONSERVER_ServerModelIndex(server, 0, &json), &json, text);
  }
  if (what == "metrics") {
    TRITONSERVER_Metrics* metrics;
    const char* base;
    size_t size;
    TRY(TRITONSERVER_ServerMetrics(server, &metrics));
    TRY(TRITONSERVER_MetricsFormatted(metrics, TRITONSERVER_METRIC_PROMETHEUS, &base, &size));
    text->assign(base, size);
    return TRITONSERVER_MetricsDelete(metrics);
  }
  return what == "load"     ? TRITONSERVER_ServerLoadModel(server, model)
         : what == "unload" ? TRITONSERVER_ServerUnloadModel(server, model)
         : what == "stop"   ? TRITONSERVER_ServerStop(server)
                            : TRITONSERVER_ServerPollModelRepository(server);
}

TRITONSERVER_Error* answer(TRITONBACKEND_Request* request, TRITONSERVER_Server* server, TRITONBACKEND_Response* response)
{
  Input input;
  std::string text;
  TRY(read_input(request, "INPUT0", &input));
  const std::string given = input.bytes.substr(4);  // one element of BYTES
  const size_t space = given.find(' ');
  TRY(ask(server, given.substr(0, space), given.c_str() + space + 1, &text));
  return write_text(response, "OUTPUT0", {1}, text);
}

}  // namespace

extern "C" TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count)
{
  TRITONBACKEND_Model* model;
  TRITONSERVER_Server* server;
  TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
  TRY(TRITONBACKEND_ModelServer(model, &server));
  return answer_each(requests, count, [&](TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
    return answer(request, server, response);
  });
}
