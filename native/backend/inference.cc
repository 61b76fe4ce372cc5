// What backends do with requests: read them, answer them, keep states, let them go.

#include "backend/outbox.h"

#include <algorithm>
#include <cstdlib>

using namespace despina;

namespace {

using BackendRequest = TRITONBACKEND_Request;
using BackendResponse = TRITONBACKEND_Response;

std::string prefix_of(const BackendRequest& request)
{
  return "[request id: " + (request.id.empty() ? "<id_unknown>" : request.id) + "] ";
}

TRITONBACKEND_Input& nth_input(BackendRequest& request, uint32_t index)
{
  if (index >= request.inputs.size()) {
    invalid(prefix_of(request) + "out of bounds index " + std::to_string(index) + ": request has " +
            std::to_string(request.inputs.size()) + " inputs");
  }
  return *std::next(request.inputs.begin(), index);
}

void send(Flight& flight, std::unique_ptr<BackendResponse> response, bool final)
{
  if (flight.ended) {
    refuse(TRITONSERVER_ERROR_INTERNAL, "the request has had its final response");
  }
  if (!flight.decoupled && !final && response != nullptr) {
    final = true;  // a model that is not decoupled has one response
  }
  if (final) {
    flight.ended = true;
  }
  flight.outbox->tell(flight, {Told::kAnswer, flight.tag, final, std::move(response), nullptr});
}

bool is_cancelled(Flight& flight)
{
  if (!flight.watched.exchange(true)) {  // from now on Python looks after it
    flight.outbox->tell(flight, {Told::kWatch, flight.tag, false, nullptr, nullptr});
  }
  return flight.cancelled;
}

void* allocate(BackendOutput& output, uint64_t byte_size, TRITONSERVER_MemoryType* type, int64_t* id)
{
  std::free(std::exchange(output.base, nullptr));
  output.base = std::malloc(byte_size == 0 ? 1 : byte_size);
  if (output.base == nullptr) {
    refuse(TRITONSERVER_ERROR_UNAVAILABLE, "failed to allocate " + std::to_string(byte_size) + " bytes for '" +
                                               output.tensor.name + "'");
  }
  output.byte_size = byte_size;
  *type = TRITONSERVER_MEMORY_CPU;
  *id = 0;
  return output.base;
}

TRITONSERVER_BufferAttributes* attributes_of(BackendOutput& output)
{
  output.attributes.byte_size = output.byte_size;
  return &output.attributes;
}

void add_parameter(BackendResponse* response, Parameter parameter)
{
  need(response, "response").parameters.push_back(std::move(parameter));
}

Tensor described(const std::string& name, TRITONSERVER_DataType datatype, const int64_t* shape, uint32_t dims_count)
{
  if (datatype < 0 || datatype >= kDataTypes) {
    invalid("'" + name + "': there is no datatype " + std::to_string(datatype));
  }
  Tensor tensor{name, datatype, {}};
  if (dims_count != 0) {
    tensor.shape.assign(shape, shape + dims_count);
  }
  return tensor;
}

TRITONBACKEND_Output& nth_output(BackendResponse* response, uint32_t index)
{
  BackendResponse& found = need(response, "response");
  if (index >= found.outputs.size()) {
    invalid("out of bounds index " + std::to_string(index) + ": response has " +
            std::to_string(found.outputs.size()) + " outputs");
  }
  return *std::next(found.outputs.begin(), index);
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_InputProperties(
    TRITONBACKEND_Input* input, const char** name, TRITONSERVER_DataType* datatype, const int64_t** shape,
    uint32_t* dims_count, uint64_t* byte_size, uint32_t* buffer_count)
{
  return guarded([&] {
    const TRITONBACKEND_Input& found = need(input, "input");
    if (name != nullptr) {
      *name = found.tensor->name.c_str();
    }
    if (datatype != nullptr) {
      *datatype = found.tensor->datatype;
    }
    if (shape != nullptr) {
      *shape = found.tensor->shape.data();
    }
    if (dims_count != nullptr) {
      *dims_count = static_cast<uint32_t>(found.tensor->shape.size());
    }
    if (byte_size != nullptr) {
      *byte_size = found.byte_size;
    }
    if (buffer_count != nullptr) {
      *buffer_count = 1;
    }
  });
}

TRITONSERVER_Error* TRITONBACKEND_InputPropertiesForHostPolicy(
    TRITONBACKEND_Input* input, const char* host_policy_name, const char** name, TRITONSERVER_DataType* datatype,
    const int64_t** shape, uint32_t* dims_count, uint64_t* byte_size, uint32_t* buffer_count)
{
  (void)host_policy_name;
  return TRITONBACKEND_InputProperties(input, name, datatype, shape, dims_count, byte_size, buffer_count);
}

TRITONSERVER_Error* TRITONBACKEND_InputBuffer(
    TRITONBACKEND_Input* input, const uint32_t index, const void** buffer, uint64_t* buffer_byte_size,
    TRITONSERVER_MemoryType* memory_type, int64_t* memory_type_id)
{
  *buffer = nullptr;
  *buffer_byte_size = 0;
  return guarded([&] {
    const TRITONBACKEND_Input& found = need(input, "input");
    if (index != 0) {
      invalid("unable to get buffer " + std::to_string(index) + " of input '" + found.tensor->name + "': it has 1");
    }
    *buffer = found.base;
    *buffer_byte_size = found.byte_size;
    *memory_type = TRITONSERVER_MEMORY_CPU;
    *memory_type_id = 0;
  });
}

TRITONSERVER_Error* TRITONBACKEND_InputBufferForHostPolicy(
    TRITONBACKEND_Input* input, const char* host_policy_name, const uint32_t index, const void** buffer,
    uint64_t* buffer_byte_size, TRITONSERVER_MemoryType* memory_type, int64_t* memory_type_id)
{
  (void)host_policy_name;
  return TRITONBACKEND_InputBuffer(input, index, buffer, buffer_byte_size, memory_type, memory_type_id);
}

TRITONSERVER_Error* TRITONBACKEND_InputBufferAttributes(
    TRITONBACKEND_Input* input, const uint32_t index, const void** buffer,
    TRITONSERVER_BufferAttributes** buffer_attributes)
{
  *buffer = nullptr;
  return guarded([&] {
    TRITONBACKEND_Input& found = need(input, "input");
    if (index != 0) {
      invalid("unable to get buffer " + std::to_string(index) + " of input '" + found.tensor->name + "': it has 1");
    }
    found.attributes.byte_size = found.byte_size;
    *buffer = found.base;
    *buffer_attributes = &found.attributes;
  });
}

TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(
    TRITONBACKEND_Output* output, void** buffer, const uint64_t buffer_byte_size, TRITONSERVER_MemoryType* memory_type,
    int64_t* memory_type_id)
{
  return guarded([&] { *buffer = allocate(need(output, "output"), buffer_byte_size, memory_type, memory_type_id); });
}

TRITONSERVER_Error* TRITONBACKEND_OutputBufferAttributes(
    TRITONBACKEND_Output* output, TRITONSERVER_BufferAttributes** buffer_attributes)
{
  return guarded([&] { *buffer_attributes = attributes_of(need(output, "output")); });
}

TRITONSERVER_Error* TRITONBACKEND_RequestId(TRITONBACKEND_Request* request, const char** id)
{
  return guarded([&] { *id = need(request, "request").id.c_str(); });
}

TRITONSERVER_Error* TRITONBACKEND_RequestIsCancelled(TRITONBACKEND_Request* request, bool* cancelled)
{
  return guarded([&] { *cancelled = is_cancelled(*need(request, "request").flight); });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory* factory, bool* cancelled)
{
  return guarded([&] { *cancelled = is_cancelled(*need(factory, "response factory").flight); });
}

TRITONSERVER_Error* TRITONBACKEND_RequestCorrelationId(TRITONBACKEND_Request* request, uint64_t* id)
{
  return guarded([&] {
    const BackendRequest& found = need(request, "request");
    if (!found.correlation_text.empty()) {
      invalid(prefix_of(found) + "correlation ID in request is not an unsigned int");
    }
    *id = found.correlation_id;
  });
}

TRITONSERVER_Error* TRITONBACKEND_InferenceRequestTimeoutMicroseconds(TRITONBACKEND_Request* request, uint64_t* timeout)
{
  return guarded([&] { *timeout = need(request, "request").timeout_us; });
}

TRITONSERVER_Error* TRITONBACKEND_RequestCorrelationIdString(TRITONBACKEND_Request* request, const char** id)
{
  return guarded([&] {
    const BackendRequest& found = need(request, "request");
    if (found.correlation_text.empty()) {
      invalid(prefix_of(found) + "correlation ID in request is not a string");
    }
    *id = found.correlation_text.c_str();
  });
}

TRITONSERVER_Error* TRITONBACKEND_RequestFlags(TRITONBACKEND_Request* request, uint32_t* flags)
{
  return guarded([&] { *flags = need(request, "request").flags; });
}

TRITONSERVER_Error* TRITONBACKEND_RequestParameterCount(TRITONBACKEND_Request* request, uint32_t* count)
{
  return guarded([&] { *count = static_cast<uint32_t>(need(request, "request").parameters.size()); });
}

TRITONSERVER_Error* TRITONBACKEND_RequestParameter(
    TRITONBACKEND_Request* request, const uint32_t index, const char** key, TRITONSERVER_ParameterType* type,
    const void** vvalue)
{
  return guarded([&] {
    const BackendRequest& found = need(request, "request");
    if (index >= found.parameters.size()) {
      invalid(prefix_of(found) + "out of bounds index " + std::to_string(index) + ": request has " +
              std::to_string(found.parameters.size()) + " parameters");
    }
    const Parameter& parameter = found.parameters[index];
    *key = parameter.name.c_str();
    *type = parameter.type;
    *vvalue = parameter.value();
  });
}

TRITONSERVER_Error* TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request* request, uint32_t* count)
{
  return guarded([&] { *count = static_cast<uint32_t>(need(request, "request").inputs.size()); });
}

TRITONSERVER_Error* TRITONBACKEND_RequestInputName(
    TRITONBACKEND_Request* request, const uint32_t index, const char** input_name)
{
  *input_name = nullptr;
  return guarded([&] { *input_name = nth_input(need(request, "request"), index).tensor->name.c_str(); });
}

TRITONSERVER_Error* TRITONBACKEND_RequestInput(
    TRITONBACKEND_Request* request, const char* name, TRITONBACKEND_Input** input)
{
  *input = nullptr;
  return guarded([&] {
    BackendRequest& found = need(request, "request");
    for (TRITONBACKEND_Input& candidate : found.inputs) {
      if (candidate.tensor->name == text_of(name)) {
        *input = &candidate;
        return;
      }
    }
    invalid(prefix_of(found) + "unknown request input name " + text_of(name));
  });
}

TRITONSERVER_Error* TRITONBACKEND_RequestInputByIndex(
    TRITONBACKEND_Request* request, const uint32_t index, TRITONBACKEND_Input** input)
{
  *input = nullptr;
  return guarded([&] { *input = &nth_input(need(request, "request"), index); });
}

TRITONSERVER_Error* TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request* request, uint32_t* count)
{
  return guarded([&] { *count = static_cast<uint32_t>(need(request, "request").outputs->size()); });
}

TRITONSERVER_Error* TRITONBACKEND_RequestOutputName(
    TRITONBACKEND_Request* request, const uint32_t index, const char** output_name)
{
  *output_name = nullptr;
  return guarded([&] {
    const BackendRequest& found = need(request, "request");
    if (index >= found.outputs->size()) {
      invalid(prefix_of(found) + "out of bounds index " + std::to_string(index) + ": request has " +
              std::to_string(found.outputs->size()) + " requested outputs");
    }
    *output_name = (*found.outputs)[index].c_str();
  });
}

TRITONSERVER_Error* TRITONBACKEND_RequestOutputBufferProperties(
    TRITONBACKEND_Request* request, const char* name, size_t* byte_size, TRITONSERVER_MemoryType* memory_type,
    int64_t* memory_type_id)
{
  (void)name, (void)byte_size, (void)memory_type, (void)memory_type_id;
  return guarded([&] {
    refuse(TRITONSERVER_ERROR_UNAVAILABLE,
           prefix_of(need(request, "request")) + "Output properties are not available");
  });
}

TRITONSERVER_Error* TRITONBACKEND_RequestRelease(TRITONBACKEND_Request* request, uint32_t release_flags)
{
  return guarded([&] {
    const std::unique_ptr<BackendRequest> gone(&need(request, "request"));
    const FlightHandle flight = gone->flight;
    flight->released = true;
    if ((release_flags & TRITONSERVER_REQUEST_RELEASE_RESCHEDULE) != 0) {
      flight->ended = true;
      flight->outbox->tell(*flight, {Told::kReschedule, flight->tag, true, nullptr, nullptr});
    }
  });
}

TRITONSERVER_Error* TRITONBACKEND_RequestTrace(TRITONBACKEND_Request* request, TRITONSERVER_InferenceTrace** trace)
{
  return guarded([&] {
    need(request, "request");
    *trace = nullptr;
  });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryNew(
    TRITONBACKEND_ResponseFactory** factory, TRITONBACKEND_Request* request)
{
  return guarded([&] { *factory = new TRITONBACKEND_ResponseFactory{need(request, "request").flight}; });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory* factory)
{
  delete factory;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactorySendFlags(
    TRITONBACKEND_ResponseFactory* factory, const uint32_t send_flags)
{
  return guarded([&] {
    Flight& flight = *need(factory, "response factory").flight;
    if ((send_flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0) {
      send(flight, nullptr, true);
    }
  });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseNew(TRITONBACKEND_Response** response, TRITONBACKEND_Request* request)
{
  return guarded([&] {
    auto made = std::make_unique<BackendResponse>();
    made->flight = need(request, "request").flight;
    *response = made.release();
  });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseNewFromFactory(
    TRITONBACKEND_Response** response, TRITONBACKEND_ResponseFactory* factory)
{
  return guarded([&] {
    auto made = std::make_unique<BackendResponse>();
    made->flight = need(factory, "response factory").flight;
    *response = made.release();
  });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseDelete(TRITONBACKEND_Response* response)
{
  delete response;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSetStringParameter(
    TRITONBACKEND_Response* response, const char* name, const char* value)
{
  return guarded([&] { add_parameter(response, named_string(text_of(name), text_of(value))); });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSetIntParameter(
    TRITONBACKEND_Response* response, const char* name, const int64_t value)
{
  return guarded([&] { add_parameter(response, named_integer(text_of(name), value)); });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSetBoolParameter(
    TRITONBACKEND_Response* response, const char* name, const bool value)
{
  return guarded([&] { add_parameter(response, named_truth(text_of(name), value)); });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSetDoubleParameter(
    TRITONBACKEND_Response* response, const char* name, const double value)
{
  return guarded([&] { add_parameter(response, named_real(text_of(name), value)); });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(
    TRITONBACKEND_Response* response, TRITONBACKEND_Output** output, const char* name,
    const TRITONSERVER_DataType datatype, const int64_t* shape, const uint32_t dims_count)
{
  *output = nullptr;
  return guarded([&] {
    BackendResponse& owner = need(response, "response");
    const std::vector<std::string>& known = owner.flight->model->outputs;
    const std::string wanted = text_of(name);
    if (std::find(known.begin(), known.end(), wanted) == known.end()) {
      invalid("unexpected inference output '" + wanted + "' for model '" + owner.flight->model->name + "'");
    }
    Tensor tensor = described(wanted, datatype, shape, dims_count);
    owner.outputs.emplace_back();
    TRITONBACKEND_Output& made = owner.outputs.back();
    made.response = &owner;
    made.tensor = std::move(tensor);
    *output = &made;
  });
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSend(
    TRITONBACKEND_Response* response, const uint32_t send_flags, TRITONSERVER_Error* error)
{
  return guarded([&] {
    std::unique_ptr<BackendResponse> sent(&need(response, "response"));
    if (error != nullptr) {  // whoever sends it keeps the error
      sent->failed = true;
      sent->code = error->code;
      sent->text = error->text;
    }
    const FlightHandle flight = sent->flight;
    sent->flight.reset();
    send(*flight, std::move(sent), (send_flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0);
  });
}

TRITONSERVER_Error* TRITONBACKEND_InferenceResponseOutput(
    TRITONBACKEND_Response* response, const uint32_t index, const char** name, TRITONSERVER_DataType* datatype,
    const int64_t** shape, uint64_t* dim_count)
{
  return guarded([&] {
    const TRITONBACKEND_Output& output = nth_output(response, index);
    *name = output.tensor.name.c_str();
    *datatype = output.tensor.datatype;
    *shape = output.tensor.shape.data();
    *dim_count = output.tensor.shape.size();
  });
}

TRITONSERVER_Error* TRITONBACKEND_InferenceResponseOutputByName(
    TRITONBACKEND_Response* response, const char* name, TRITONSERVER_DataType* datatype, const int64_t** shape,
    uint64_t* dim_count)
{
  return guarded([&] {
    for (const TRITONBACKEND_Output& output : need(response, "response").outputs) {
      if (output.tensor.name == text_of(name)) {
        *datatype = output.tensor.datatype;
        *shape = output.tensor.shape.data();
        *dim_count = output.tensor.shape.size();
        return;
      }
    }
    refuse(TRITONSERVER_ERROR_NOT_FOUND, "output name '" + text_of(name) + "' not found");
  });
}

TRITONSERVER_Error* TRITONBACKEND_StateNew(
    TRITONBACKEND_State** state, TRITONBACKEND_Request* request, const char* name,
    const TRITONSERVER_DataType datatype, const int64_t* shape, const uint32_t dims_count)
{
  return guarded([&] {
    BackendRequest& owner = need(request, "request");
    const std::vector<std::string>& known = owner.flight->model->states;
    const std::string wanted = text_of(name);
    if (known.empty()) {
      invalid("unable to add state '" + wanted + "'. State configuration is missing for model '" +
              owner.flight->model->name + "'.");
    }
    if (std::find(known.begin(), known.end(), wanted) == known.end()) {
      invalid("state '" + wanted + "' is not a valid state name.");
    }
    Tensor tensor = described(wanted, datatype, shape, dims_count);
    owner.states.emplace_back();
    TRITONBACKEND_State& made = owner.states.back();
    made.flight = owner.flight.get();
    made.tensor = std::move(tensor);
    *state = &made;
  });
}

TRITONSERVER_Error* TRITONBACKEND_StateBuffer(
    TRITONBACKEND_State* state, void** buffer, const uint64_t buffer_byte_size, TRITONSERVER_MemoryType* memory_type,
    int64_t* memory_type_id)
{
  return guarded([&] { *buffer = allocate(need(state, "state"), buffer_byte_size, memory_type, memory_type_id); });
}

TRITONSERVER_Error* TRITONBACKEND_StateBufferAttributes(
    TRITONBACKEND_State* state, TRITONSERVER_BufferAttributes** buffer_attributes)
{
  return guarded([&] { *buffer_attributes = attributes_of(need(state, "state")); });
}

TRITONSERVER_Error* TRITONBACKEND_StateUpdate(TRITONBACKEND_State* state)
{
  return guarded([&] {
    TRITONBACKEND_State& given = need(state, "state");
    Told told{Told::kState, given.flight->tag, false, nullptr, std::make_unique<BackendOutput>()};
    told.state->tensor = given.tensor;
    told.state->byte_size = std::exchange(given.byte_size, 0);
    told.state->base = std::exchange(given.base, nullptr);
    given.flight->outbox->tell(*given.flight, std::move(told));
  });
}

}  // extern "C"
