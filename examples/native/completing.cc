// Completes its configuration where it is asked to: one input and one output, and batches. OUTPUT0 says what it knows.

#include "reading.h"

namespace {

const char kCompleted[] =
    "{\"max_batch_size\": 4, \"dynamic_batching\": {},"
    " \"input\": [{\"name\": \"INPUT0\", \"data_type\": \"TYPE_INT8\", \"dims\": [-1]}],"
    " \"output\": [{\"name\": \"OUTPUT0\", \"data_type\": \"TYPE_STRING\", \"dims\": [1]}]}";

// What an instance tells of itself.
TRITONSERVER_Error* facts(TRITONBACKEND_ModelInstance* instance, std::string* text)
{
  TRITONBACKEND_Model* model;
  TRITONBACKEND_Backend* backend;
  TRITONBACKEND_ArtifactType kind;
  const char *instance_name, *model_name, *backend_name, *folder;
  uint64_t version;
  TRY(TRITONBACKEND_ModelInstanceName(instance, &instance_name));
  TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
  TRY(TRITONBACKEND_ModelName(model, &model_name));
  TRY(TRITONBACKEND_ModelVersion(model, &version));
  TRY(TRITONBACKEND_ModelRepository(model, &kind, &folder));
  TRY(TRITONBACKEND_ModelBackend(model, &backend));
  TRY(TRITONBACKEND_BackendName(backend, &backend_name));
  *text = std::string(backend_name) + " " + model_name + " " + std::to_string(version) + " " + instance_name + " " +
          folder;
  return nullptr;
}

}  // namespace

extern "C" TRITONSERVER_Error* TRITONBACKEND_GetBackendAttribute(
    TRITONBACKEND_Backend*, TRITONBACKEND_BackendAttribute* attributes)
{
  return TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
      attributes, TRITONSERVER_INSTANCEGROUPKIND_CPU, 1, nullptr, 0);
}

extern "C" TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model)
{
  bool wanted;
  TRITONSERVER_Message* message;
  TRY(TRITONBACKEND_ModelAutoCompleteConfig(model, &wanted));
  TRY(TRITONSERVER_MessageNewFromSerializedJson(&message, kCompleted, sizeof kCompleted - 1));
  TRITONSERVER_Error* error = wanted ? TRITONBACKEND_ModelSetConfig(model, 1, message) : nullptr;
  TRITONSERVER_MessageDelete(message);
  return error;
}

extern "C" TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count)
{
  std::string text;
  TRY(facts(instance, &text));
  return answer_each(requests, count, [&](TRITONBACKEND_Request*, TRITONBACKEND_Response* response) {
    return write_text(response, "OUTPUT0", {1, 1}, text);
  });
}
