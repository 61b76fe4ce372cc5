#include "core/request.h"

#include "core/server.h"

using namespace despina;

using Request = TRITONSERVER_InferenceRequest;

Input* TRITONSERVER_InferenceRequest::input(const std::string& name)
{
  for (Input& found : inputs) {
    if (found.tensor.name == name) {
      return &found;
    }
  }
  return nullptr;
}

namespace {

Input& input_of(Request* request, const char* name)
{
  Input* input = need(request, "inference request").input(text_of(name));
  if (input == nullptr) {
    invalid("input '" + text_of(name) + "' does not exist in request");
  }
  return *input;
}

Input& new_input(Request* request, const char* name)
{
  Request& owner = need(request, "inference request");
  if (owner.input(text_of(name)) != nullptr) {
    invalid("input '" + text_of(name) + "' already exists in request");
  }
  owner.inputs.emplace_back();
  owner.inputs.back().tensor.name = text_of(name);
  return owner.inputs.back();
}

void append(Request* request, const char* name, const Piece& piece)
{
  Input& input = input_of(request, name);
  if (piece.base == nullptr && piece.byte_size != 0) {
    invalid("input '" + text_of(name) + "': unexpected nullptr for " + std::to_string(piece.byte_size) + " bytes");
  }
  if (piece.byte_size != 0) {
    input.pieces.push_back(piece);
    input.byte_size += piece.byte_size;
  }
}

void set_parameter(Request* request, Parameter parameter)
{
  need(request, "inference request").parameters.push_back(std::move(parameter));
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONSERVER_InferenceRequestNew(
    TRITONSERVER_InferenceRequest** inference_request, TRITONSERVER_Server* server, const char* model_name,
    const int64_t model_version)
{
  return guarded([&] {
    const std::string name = text_of(model_name);
    alive(server);
    if (server->models.find(name, model_version) == nullptr) {
      server->call("find", "[" + quoted(name.c_str()) + "," + std::to_string(model_version) + "]");
    }
    auto made = std::make_unique<Request>();
    made->server = server;
    made->model_name = name;
    made->model_version = model_version;
    *inference_request = made.release();
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestDelete(TRITONSERVER_InferenceRequest* inference_request)
{
  return guarded([&] {
    if (inference_request != nullptr && inference_request->in_flight) {
      invalid("the request is in flight: it may be deleted once it has been released");
    }
    delete inference_request;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestId(TRITONSERVER_InferenceRequest* inference_request, const char** id)
{
  return guarded([&] { *id = need(inference_request, "inference request").id.c_str(); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetId(TRITONSERVER_InferenceRequest* inference_request, const char* id)
{
  return guarded([&] { need(inference_request, "inference request").id = text_of(id); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestFlags(
    TRITONSERVER_InferenceRequest* inference_request, uint32_t* flags)
{
  return guarded([&] { *flags = need(inference_request, "inference request").flags; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetFlags(
    TRITONSERVER_InferenceRequest* inference_request, uint32_t flags)
{
  return guarded([&] { need(inference_request, "inference request").flags = flags; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestCorrelationId(
    TRITONSERVER_InferenceRequest* inference_request, uint64_t* correlation_id)
{
  return guarded([&] {
    Request& request = need(inference_request, "inference request");
    if (!request.correlation_text.empty()) {
      invalid("given request's correlation id is not an unsigned int");
    }
    *correlation_id = request.correlation_id;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestCorrelationIdString(
    TRITONSERVER_InferenceRequest* inference_request, const char** correlation_id)
{
  return guarded([&] {
    Request& request = need(inference_request, "inference request");
    if (request.correlation_text.empty()) {
      invalid("given request's correlation id is not a string");
    }
    *correlation_id = request.correlation_text.c_str();
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetCorrelationId(
    TRITONSERVER_InferenceRequest* inference_request, uint64_t correlation_id)
{
  return guarded([&] {
    Request& request = need(inference_request, "inference request");
    request.correlation_id = correlation_id;
    request.correlation_text.clear();
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetCorrelationIdString(
    TRITONSERVER_InferenceRequest* inference_request, const char* correlation_id)
{
  return guarded([&] {
    constexpr size_t kLengthMax = 128;
    std::string text = text_of(correlation_id);
    if (text.size() > kLengthMax) {
      invalid("string correlation ID cannot be longer than 128 characters");
    }
    Request& request = need(inference_request, "inference request");
    request.correlation_text = std::move(text);
    request.correlation_id = 0;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestCancel(TRITONSERVER_InferenceRequest* inference_request)
{
  return guarded([&] {
    Request& request = need(inference_request, "inference request");
    if (!request.cancelled.exchange(true) && request.in_flight) {
      alive(request.server);
      request.server->submissions.push({Event::kCancel, &request, request.ticket});
    }
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestIsCancelled(
    TRITONSERVER_InferenceRequest* inference_request, bool* is_cancelled)
{
  return guarded([&] { *is_cancelled = need(inference_request, "inference request").cancelled; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestPriority(
    TRITONSERVER_InferenceRequest* inference_request, uint32_t* priority)
{
  return guarded([&] { *priority = static_cast<uint32_t>(need(inference_request, "inference request").priority); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestPriorityUInt64(
    TRITONSERVER_InferenceRequest* inference_request, uint64_t* priority)
{
  return guarded([&] { *priority = need(inference_request, "inference request").priority; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetPriority(
    TRITONSERVER_InferenceRequest* inference_request, uint32_t priority)
{
  return guarded([&] { need(inference_request, "inference request").priority = priority; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetPriorityUInt64(
    TRITONSERVER_InferenceRequest* inference_request, uint64_t priority)
{
  return guarded([&] { need(inference_request, "inference request").priority = priority; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestTimeoutMicroseconds(
    TRITONSERVER_InferenceRequest* inference_request, uint64_t* timeout_us)
{
  return guarded([&] { *timeout_us = need(inference_request, "inference request").timeout_us; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(
    TRITONSERVER_InferenceRequest* inference_request, uint64_t timeout_us)
{
  return guarded([&] { need(inference_request, "inference request").timeout_us = timeout_us; });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddInput(
    TRITONSERVER_InferenceRequest* inference_request, const char* name, const TRITONSERVER_DataType datatype,
    const int64_t* shape, uint64_t dim_count)
{
  return guarded([&] {
    if (datatype < 0 || datatype >= kDataTypes) {
      invalid("input '" + text_of(name) + "': there is no datatype " + std::to_string(datatype));
    }
    Input& input = new_input(inference_request, name);
    input.tensor.datatype = datatype;
    if (dim_count != 0) {
      input.tensor.shape.assign(shape, shape + dim_count);
    }
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRawInput(
    TRITONSERVER_InferenceRequest* inference_request, const char* name)
{
  return guarded([&] {
    if (!need(inference_request, "inference request").inputs.empty()) {
      invalid("raw input '" + text_of(name) + "' can't be added to request with other inputs");
    }
    new_input(inference_request, name).raw = true;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveInput(
    TRITONSERVER_InferenceRequest* inference_request, const char* name)
{
  return guarded([&] {
    const Input* gone = &input_of(inference_request, name);
    inference_request->inputs.remove_if([&](const Input& input) { return &input == gone; });
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveAllInputs(TRITONSERVER_InferenceRequest* inference_request)
{
  return guarded([&] { need(inference_request, "inference request").inputs.clear(); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputData(
    TRITONSERVER_InferenceRequest* inference_request, const char* name, const void* base, size_t byte_size,
    TRITONSERVER_MemoryType memory_type, int64_t memory_type_id)
{
  return guarded([&] { append(inference_request, name, {base, byte_size, memory_type, memory_type_id}); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputDataWithHostPolicy(
    TRITONSERVER_InferenceRequest* inference_request, const char* name, const void* base, size_t byte_size,
    TRITONSERVER_MemoryType memory_type, int64_t memory_type_id, const char* host_policy_name)
{
  (void)host_policy_name;  // the same bytes, wherever the instance lives
  return guarded([&] { append(inference_request, name, {base, byte_size, memory_type, memory_type_id}); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputDataWithBufferAttributes(
    TRITONSERVER_InferenceRequest* inference_request, const char* name, const void* base,
    TRITONSERVER_BufferAttributes* buffer_attributes)
{
  return guarded([&] {
    const TRITONSERVER_BufferAttributes& facts = need(buffer_attributes, "buffer attributes");
    append(inference_request, name, {base, facts.byte_size, facts.memory_type, facts.memory_type_id});
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveAllInputData(
    TRITONSERVER_InferenceRequest* inference_request, const char* name)
{
  return guarded([&] {
    Input& input = input_of(inference_request, name);
    input.pieces.clear();
    input.byte_size = 0;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRequestedOutput(
    TRITONSERVER_InferenceRequest* inference_request, const char* name)
{
  return guarded([&] { need(inference_request, "inference request").outputs.push_back(text_of(name)); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveRequestedOutput(
    TRITONSERVER_InferenceRequest* inference_request, const char* name)
{
  return guarded([&] {
    std::vector<std::string>& outputs = need(inference_request, "inference request").outputs;
    outputs.erase(std::remove(outputs.begin(), outputs.end(), text_of(name)), outputs.end());
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveAllRequestedOutputs(
    TRITONSERVER_InferenceRequest* inference_request)
{
  return guarded([&] { need(inference_request, "inference request").outputs.clear(); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetReleaseCallback(
    TRITONSERVER_InferenceRequest* inference_request, TRITONSERVER_InferenceRequestReleaseFn_t request_release_fn,
    void* request_release_userp)
{
  return guarded([&] {
    Request& request = need(inference_request, "inference request");
    request.release_fn = request_release_fn;
    request.release_userp = request_release_userp;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetResponseCallback(
    TRITONSERVER_InferenceRequest* inference_request, TRITONSERVER_ResponseAllocator* response_allocator,
    void* response_allocator_userp, TRITONSERVER_InferenceResponseCompleteFn_t response_fn, void* response_userp)
{
  return guarded([&] {
    Request& request = need(inference_request, "inference request");
    request.allocator = response_allocator;
    request.allocator_userp = response_allocator_userp;
    request.response_fn = response_fn;
    request.response_userp = response_userp;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetStringParameter(
    TRITONSERVER_InferenceRequest* request, const char* key, const char* value)
{
  return guarded([&] { set_parameter(request, named_string(text_of(key), text_of(value))); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetIntParameter(
    TRITONSERVER_InferenceRequest* request, const char* key, const int64_t value)
{
  return guarded([&] { set_parameter(request, named_integer(text_of(key), value)); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetBoolParameter(
    TRITONSERVER_InferenceRequest* request, const char* key, const bool value)
{
  return guarded([&] { set_parameter(request, named_truth(text_of(key), value)); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetDoubleParameter(
    TRITONSERVER_InferenceRequest* request, const char* key, const double value)
{
  return guarded([&] { set_parameter(request, named_real(text_of(key), value)); });
}

}  // extern "C"
