#include "core/response.h"

using namespace despina;

using Response = TRITONSERVER_InferenceResponse;

void TRITONSERVER_InferenceResponse::release_outputs() noexcept
{
  for (const Output& output : outputs) {
    if (output.allocated) {
      TRITONSERVER_ErrorDelete(allocator->release(
          allocator, output.base, output.userp, output.byte_size, output.memory_type, output.memory_type_id));
    }
  }
  outputs.clear();
}

namespace {

template <class List>
auto& at(List& list, uint32_t index, const char* what)
{
  if (index >= list.size()) {
    invalid("out of bounds index " + std::to_string(index) + ": response has " + std::to_string(list.size()) + " " +
            what);
  }
  return list[index];
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONSERVER_InferenceResponseDelete(TRITONSERVER_InferenceResponse* inference_response)
{
  delete inference_response;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseError(TRITONSERVER_InferenceResponse* inference_response)
{
  return inference_response == nullptr ? nullptr : inference_response->error.get();  // the response has it
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseModel(
    TRITONSERVER_InferenceResponse* inference_response, const char** model_name, int64_t* model_version)
{
  return guarded([&] {
    Response& response = need(inference_response, "inference response");
    *model_name = response.model_name.c_str();
    *model_version = response.model_version;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseId(
    TRITONSERVER_InferenceResponse* inference_response, const char** request_id)
{
  return guarded([&] { *request_id = need(inference_response, "inference response").request_id.c_str(); });
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameterCount(
    TRITONSERVER_InferenceResponse* inference_response, uint32_t* count)
{
  return guarded([&] {
    *count = static_cast<uint32_t>(need(inference_response, "inference response").parameters.size());
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameter(
    TRITONSERVER_InferenceResponse* inference_response, const uint32_t index, const char** name,
    TRITONSERVER_ParameterType* type, const void** vvalue)
{
  return guarded([&] {
    const Parameter& parameter = at(need(inference_response, "inference response").parameters, index, "parameters");
    *name = parameter.name.c_str();
    *type = parameter.type;
    *vvalue = parameter.value();
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputCount(
    TRITONSERVER_InferenceResponse* inference_response, uint32_t* count)
{
  return guarded([&] {
    *count = static_cast<uint32_t>(need(inference_response, "inference response").outputs.size());
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutput(
    TRITONSERVER_InferenceResponse* inference_response, const uint32_t index, const char** name,
    TRITONSERVER_DataType* datatype, const int64_t** shape, uint64_t* dim_count, const void** base, size_t* byte_size,
    TRITONSERVER_MemoryType* memory_type, int64_t* memory_type_id, void** userp)
{
  return guarded([&] {
    const Output& output = at(need(inference_response, "inference response").outputs, index, "outputs");
    *name = output.tensor->name.c_str();
    *datatype = output.tensor->datatype;
    *shape = output.tensor->shape.data();
    *dim_count = output.tensor->shape.size();
    *base = output.base;
    *byte_size = output.byte_size;
    *memory_type = output.memory_type;
    *memory_type_id = output.memory_type_id;
    *userp = output.userp;
  });
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputClassificationLabel(
    TRITONSERVER_InferenceResponse* inference_response, const uint32_t index, const size_t class_index,
    const char** label)
{
  return guarded([&] {
    Response& response = need(inference_response, "inference response");
    const Output& output = at(response.outputs, index, "outputs");
    const OutputRule* rule = response.model == nullptr ? nullptr : response.model->output(output.tensor->name);
    const bool has = rule != nullptr && class_index < rule->labels.size() && !rule->labels[class_index].empty();
    *label = has ? rule->labels[class_index].c_str() : nullptr;
  });
}

}  // extern "C"
