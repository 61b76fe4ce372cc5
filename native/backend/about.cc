// What backends ask about themselves, their models and instances.

#include "backend/backend.h"

#include "core/server.h"

#include <algorithm>
#include <cstdlib>

using namespace despina;

namespace {

using Backend = TRITONBACKEND_Backend;
using BackendModel = TRITONBACKEND_Model;
using Instance = TRITONBACKEND_ModelInstance;

void check_config_version(uint32_t version)
{
  if (version != 1) {
    invalid("model configuration version " + std::to_string(version) + " not supported, supported versions are: 1");
  }
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_ApiVersion(uint32_t* major, uint32_t* minor)
{
  *major = TRITONBACKEND_API_VERSION_MAJOR;
  *minor = TRITONBACKEND_API_VERSION_MINOR;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_MemoryManagerAllocate(
    TRITONBACKEND_MemoryManager* manager, void** buffer, const TRITONSERVER_MemoryType memory_type,
    const int64_t memory_type_id, const uint64_t byte_size)
{
  (void)manager, (void)memory_type_id;
  return guarded([&] {
    if (memory_type == TRITONSERVER_MEMORY_GPU) {
      refuse(TRITONSERVER_ERROR_UNSUPPORTED, "GPU memory allocation not supported");
    }
    *buffer = std::malloc(byte_size == 0 ? 1 : byte_size);
    if (*buffer == nullptr) {
      refuse(TRITONSERVER_ERROR_UNAVAILABLE, "failed to allocate " + std::to_string(byte_size) + " bytes");
    }
  });
}

TRITONSERVER_Error* TRITONBACKEND_MemoryManagerFree(
    TRITONBACKEND_MemoryManager* manager, void* buffer, const TRITONSERVER_MemoryType memory_type,
    const int64_t memory_type_id)
{
  (void)manager, (void)memory_type, (void)memory_type_id;
  std::free(buffer);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendName(TRITONBACKEND_Backend* backend, const char** name)
{
  return guarded([&] { *name = need(backend, "backend").name.c_str(); });
}

TRITONSERVER_Error* TRITONBACKEND_BackendConfig(TRITONBACKEND_Backend* backend, TRITONSERVER_Message** backend_config)
{
  return guarded([&] { *backend_config = &need(backend, "backend").config; });
}

TRITONSERVER_Error* TRITONBACKEND_BackendExecutionPolicy(
    TRITONBACKEND_Backend* backend, TRITONBACKEND_ExecutionPolicy* policy)
{
  return guarded([&] { *policy = need(backend, "backend").policy; });
}

TRITONSERVER_Error* TRITONBACKEND_BackendSetExecutionPolicy(
    TRITONBACKEND_Backend* backend, TRITONBACKEND_ExecutionPolicy policy)
{
  return guarded([&] { need(backend, "backend").policy = policy; });
}

TRITONSERVER_Error* TRITONBACKEND_BackendArtifacts(
    TRITONBACKEND_Backend* backend, TRITONBACKEND_ArtifactType* artifact_type, const char** location)
{
  return guarded([&] {
    *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    *location = need(backend, "backend").folder.c_str();
  });
}

TRITONSERVER_Error* TRITONBACKEND_BackendMemoryManager(
    TRITONBACKEND_Backend* backend, TRITONBACKEND_MemoryManager** manager)
{
  return guarded([&] { *manager = &need(backend, "backend").memory; });
}

TRITONSERVER_Error* TRITONBACKEND_BackendState(TRITONBACKEND_Backend* backend, void** state)
{
  return guarded([&] { *state = need(backend, "backend").state; });
}

TRITONSERVER_Error* TRITONBACKEND_BackendSetState(TRITONBACKEND_Backend* backend, void* state)
{
  return guarded([&] { need(backend, "backend").state = state; });
}

TRITONSERVER_Error* TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    TRITONBACKEND_BackendAttribute* backend_attributes, const TRITONSERVER_InstanceGroupKind kind,
    const uint64_t count, const uint64_t* device_ids, const uint64_t id_count)
{
  (void)count, (void)device_ids, (void)id_count;
  return guarded([&] {
    TRITONBACKEND_BackendAttribute& attributes = need(backend_attributes, "backend attributes");
    if (attributes.preferred_kind == TRITONSERVER_INSTANCEGROUPKIND_AUTO) {
      attributes.preferred_kind = kind;
    }
  });
}

TRITONSERVER_Error* TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(
    TRITONBACKEND_BackendAttribute* backend_attributes, bool enabled)
{
  return guarded([&] { need(backend_attributes, "backend attributes").parallel_loading = enabled; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelName(TRITONBACKEND_Model* model, const char** name)
{
  return guarded([&] { *name = need(model, "model").name.c_str(); });
}

TRITONSERVER_Error* TRITONBACKEND_ModelVersion(TRITONBACKEND_Model* model, uint64_t* version)
{
  return guarded([&] { *version = need(model, "model").version; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelRepository(
    TRITONBACKEND_Model* model, TRITONBACKEND_ArtifactType* artifact_type, const char** location)
{
  return guarded([&] {
    *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    *location = need(model, "model").folder.c_str();
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelConfig(
    TRITONBACKEND_Model* model, const uint32_t config_version, TRITONSERVER_Message** model_config)
{
  return guarded([&] {
    check_config_version(config_version);
    *model_config = new TRITONSERVER_Message{need(model, "model").config};
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelAutoCompleteConfig(TRITONBACKEND_Model* model, bool* auto_complete_config)
{
  return guarded([&] { *auto_complete_config = need(model, "model").auto_complete; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelSetConfig(
    TRITONBACKEND_Model* model, const uint32_t config_version, TRITONSERVER_Message* model_config)
{
  return guarded([&] {
    check_config_version(config_version);
    BackendModel& changed = need(model, "model");
    if (!changed.initialising) {
      refuse(TRITONSERVER_ERROR_UNSUPPORTED,
             "the configuration of model '" + changed.name + "' can only be set while it initializes");
    }
    changed.config = ask(
        nullptr, "native_config",
        "[" + quoted(changed.config.c_str()) + "," + quoted(need(model_config, "model config").text.c_str()) + "]");
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelServer(TRITONBACKEND_Model* model, TRITONSERVER_Server** server)
{
  return guarded([&] {
    void* found = need(model, "model").server;
    if (found == nullptr) {
      refuse(TRITONSERVER_ERROR_UNSUPPORTED, "model '" + model->name + "' cannot ask other models");
    }
    *server = static_cast<TRITONSERVER_Server*>(found);
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelBackend(TRITONBACKEND_Model* model, TRITONBACKEND_Backend** backend)
{
  return guarded([&] { *backend = need(model, "model").backend.get(); });
}

TRITONSERVER_Error* TRITONBACKEND_ModelState(TRITONBACKEND_Model* model, void** state)
{
  return guarded([&] { *state = need(model, "model").state; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelSetState(TRITONBACKEND_Model* model, void* state)
{
  return guarded([&] { need(model, "model").state = state; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelReportMemoryUsage(
    TRITONBACKEND_Model* model, TRITONSERVER_BufferAttributes** usage, uint32_t usage_size)
{
  (void)usage, (void)usage_size;  // statistics show what frameworks of ours use, and nothing of others yet
  return guarded([&] { need(model, "model"); });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceName(TRITONBACKEND_ModelInstance* instance, const char** name)
{
  return guarded([&] { *name = need(instance, "model instance").name.c_str(); });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceKind(
    TRITONBACKEND_ModelInstance* instance, TRITONSERVER_InstanceGroupKind* kind)
{
  return guarded([&] { *kind = need(instance, "model instance").kind; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceDeviceId(TRITONBACKEND_ModelInstance* instance, int32_t* device_id)
{
  return guarded([&] { *device_id = need(instance, "model instance").device_id; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceHostPolicy(
    TRITONBACKEND_ModelInstance* instance, TRITONSERVER_Message** host_policy)
{
  return guarded([&] { *host_policy = &need(instance, "model instance").host_policy; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceIsPassive(TRITONBACKEND_ModelInstance* instance, bool* is_passive)
{
  return guarded([&] {
    need(instance, "model instance");
    *is_passive = false;  // passive groups have no instances here
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceProfileCount(TRITONBACKEND_ModelInstance* instance, uint32_t* count)
{
  return guarded([&] {
    need(instance, "model instance");
    *count = 0;
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceProfileName(
    TRITONBACKEND_ModelInstance* instance, const uint32_t index, const char** profile_name)
{
  *profile_name = nullptr;
  return guarded([&] {
    need(instance, "model instance");
    invalid("out of range index " + std::to_string(index) + ": instance has 0 profiles");
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceSecondaryDeviceCount(
    TRITONBACKEND_ModelInstance* instance, uint32_t* count)
{
  return guarded([&] {
    need(instance, "model instance");
    *count = 0;
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceSecondaryDeviceProperties(
    TRITONBACKEND_ModelInstance* instance, uint32_t index, const char** kind, int64_t* id)
{
  (void)kind, (void)id;
  return guarded([&] {
    need(instance, "model instance");
    invalid("out of range index " + std::to_string(index) + ": instance has 0 secondary devices");
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceModel(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Model** model)
{
  return guarded([&] { *model = need(instance, "model instance").model; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance* instance, void** state)
{
  return guarded([&] { *state = need(instance, "model instance").state; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance* instance, void* state)
{
  return guarded([&] { need(instance, "model instance").state = state; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportMemoryUsage(
    TRITONBACKEND_ModelInstance* instance, TRITONSERVER_BufferAttributes** usage, uint32_t usage_size)
{
  (void)usage, (void)usage_size;
  return guarded([&] { need(instance, "model instance"); });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, const bool success,
    const uint64_t exec_start_ns, const uint64_t compute_start_ns, const uint64_t compute_end_ns,
    const uint64_t exec_end_ns)
{
  (void)request, (void)success, (void)exec_start_ns, (void)exec_end_ns;  // the engine counts requests at their ends
  return guarded([&] {
    Instance& told = need(instance, "model instance");
    std::lock_guard<std::mutex> lock(told.mutex);
    if (told.compute_start_ns == 0) {
      told.compute_start_ns = compute_start_ns;
      told.compute_end_ns = compute_end_ns;
    }
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance* instance, const uint64_t batch_size, const uint64_t exec_start_ns,
    const uint64_t compute_start_ns, const uint64_t compute_end_ns, const uint64_t exec_end_ns)
{
  (void)batch_size, (void)exec_start_ns, (void)exec_end_ns;
  return guarded([&] {
    Instance& told = need(instance, "model instance");
    std::lock_guard<std::mutex> lock(told.mutex);
    told.compute_start_ns = compute_start_ns;
    told.compute_end_ns = compute_end_ns;
  });
}

}  // extern "C"

// The engine measures responses of streams itself, where they are sent; what backends say of them is checked for sense.
struct TRITONBACKEND_ModelInstanceResponseStatistics {
  Instance* instance = nullptr;
  TRITONBACKEND_ResponseFactory* factory = nullptr;
};

namespace {

using ResponseStatistics = TRITONBACKEND_ModelInstanceResponseStatistics;

Error* taken(ResponseStatistics* statistics)
{
  return guarded([&] { need(statistics, "response statistics"); });
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsNew(
    TRITONBACKEND_ModelInstanceResponseStatistics** response_statistics)
{
  return guarded([&] { *response_statistics = new ResponseStatistics; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsDelete(
    TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics)
{
  delete response_statistics;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetModelInstance(
    TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics, TRITONBACKEND_ModelInstance* model_instance)
{
  return guarded([&] { need(response_statistics, "response statistics").instance = model_instance; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseFactory(
    TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics, TRITONBACKEND_ResponseFactory* response_factory)
{
  return guarded([&] { need(response_statistics, "response statistics").factory = response_factory; });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseStart(
    TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics, uint64_t response_start)
{
  (void)response_start;
  return taken(response_statistics);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetComputeOutputStart(
    TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics, uint64_t compute_output_start)
{
  (void)compute_output_start;
  return taken(response_statistics);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseEnd(
    TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics, uint64_t response_end)
{
  (void)response_end;
  return taken(response_statistics);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetError(
    TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics, TRITONSERVER_Error* error)
{
  (void)error;
  return taken(response_statistics);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportResponseStatistics(
    TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics)
{
  return guarded([&] {
    const ResponseStatistics& told = need(response_statistics, "response statistics");
    if (told.instance == nullptr || told.factory == nullptr) {
      invalid("response statistics need their model instance and their response factory");
    }
  });
}

}  // extern "C"
