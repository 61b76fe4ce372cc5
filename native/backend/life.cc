// Backends, models and instances: how they come and go.

#include "backend/outbox.h"

#include "core/bridge.h"

#include <dlfcn.h>
#include <sys/stat.h>

namespace despina {

namespace {

std::mutex backends_mutex;
std::map<std::string, std::weak_ptr<TRITONBACKEND_Backend>> backends;   // by the path of the library

// A library stays in memory when its last model has gone. A thread may still be on its way out of its code: the
// library's own, which has just let go of what kept the model, or the server's, within a callback. It is closed only
// where its file is another by the time that it is loaded anew.
struct Loaded {
  void* library = nullptr;
  struct stat file {};
};
std::map<std::string, Loaded> libraries;   // by path, with the mutex of the backends

bool is_same_file(const struct stat& one, const struct stat& other)
{
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino && one.st_size == other.st_size &&
         one.st_mtim.tv_sec == other.st_mtim.tv_sec && one.st_mtim.tv_nsec == other.st_mtim.tv_nsec;
}

void* load_library(const std::string& path)
{
  Loaded& loaded = libraries[path];
  struct stat file {};
  if (stat(path.c_str(), &file) == 0 && loaded.library != nullptr && is_same_file(file, loaded.file)) {
    return loaded.library;
  }
  if (loaded.library != nullptr) {
    dlclose(std::exchange(loaded.library, nullptr));
  }
  loaded.library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (loaded.library == nullptr) {
    refuse(TRITONSERVER_ERROR_NOT_FOUND, std::string("unable to load shared library: ") + dlerror());
  }
  loaded.file = file;
  return loaded.library;
}

template <class Function>
Function entry(void* library, const char* name)
{
  return reinterpret_cast<Function>(dlsym(library, name));
}

void check_entries(const TRITONBACKEND_Backend& backend)
{
  if (backend.execute == nullptr) {
    refuse(TRITONSERVER_ERROR_NOT_FOUND,
           "unable to find required entrypoint 'TRITONBACKEND_ModelInstanceExecute' in shared library");
  }
}

void load_entries(TRITONBACKEND_Backend& backend)
{
  void* library = backend.library;
  backend.finalize = entry<BackendCall>(library, "TRITONBACKEND_Finalize");
  backend.model_initialize = entry<ModelCall>(library, "TRITONBACKEND_ModelInitialize");
  backend.model_finalize = entry<ModelCall>(library, "TRITONBACKEND_ModelFinalize");
  backend.instance_initialize = entry<InstanceCall>(library, "TRITONBACKEND_ModelInstanceInitialize");
  backend.instance_finalize = entry<InstanceCall>(library, "TRITONBACKEND_ModelInstanceFinalize");
  backend.instance_ready = entry<InstanceCall>(library, "TRITONBACKEND_ModelInstanceReady");
  backend.execute = entry<decltype(backend.execute)>(library, "TRITONBACKEND_ModelInstanceExecute");
}

void ask_attributes(TRITONBACKEND_Backend& backend)
{
  using Asks = TRITONSERVER_Error* (*)(TRITONBACKEND_Backend*, TRITONBACKEND_BackendAttribute*);
  const Asks asks = entry<Asks>(backend.library, "TRITONBACKEND_GetBackendAttribute");
  if (asks != nullptr) {
    raise(asks(&backend, &backend.attributes));
  }
}

std::shared_ptr<TRITONBACKEND_Backend> load_backend(
    const std::string& path, const std::string& name, const std::string& folder, const std::string& config)
{
  show_functions_to_all();
  auto backend = std::make_shared<TRITONBACKEND_Backend>();
  backend->name = name;
  backend->folder = folder;
  backend->config.text = config;
  backend->library = load_library(path);
  load_entries(*backend);
  check_entries(*backend);
  ask_attributes(*backend);
  const BackendCall initialize = entry<BackendCall>(backend->library, "TRITONBACKEND_Initialize");
  if (initialize != nullptr) {
    raise(initialize(backend.get()));
  }
  backend->initialised = true;
  return backend;
}

void log_failure(const std::string& what, Error* error)
{
  if (error != nullptr) {
    const std::string text = what + ": " + error->text;
    TRITONSERVER_ErrorDelete(error);
    TRITONSERVER_ErrorDelete(TRITONSERVER_LogMessage(TRITONSERVER_LOG_ERROR, __FILE__, __LINE__, text.c_str()));
  }
}

}  // namespace

void show_functions_to_all()
{
  Dl_info facts;
  if (dladdr(reinterpret_cast<void*>(&despina_bridge), &facts) != 0) {
    dlopen(facts.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
  }
}

std::shared_ptr<TRITONBACKEND_Backend> open_backend(
    const std::string& path, const std::string& name, const std::string& folder, const std::string& config)
{
  std::lock_guard<std::mutex> lock(backends_mutex);
  std::shared_ptr<TRITONBACKEND_Backend> found = backends[path].lock();
  if (found == nullptr) {
    found = load_backend(path, name, folder, config);
    backends[path] = found;
  }
  return found;
}

void open_model(TRITONBACKEND_Model& model)
{
  model.initialising = true;
  if (model.backend->model_initialize != nullptr) {
    raise(model.backend->model_initialize(&model));
  }
  model.initialising = false;
}

void close_model(std::unique_ptr<TRITONBACKEND_Model> model)
{
  if (model->backend->model_finalize != nullptr) {
    log_failure("failed finalizing model '" + model->name + "'", model->backend->model_finalize(model.get()));
  }
}

void open_instance(TRITONBACKEND_ModelInstance& instance)
{
  if (instance.model->backend->instance_initialize != nullptr) {
    raise(instance.model->backend->instance_initialize(&instance));
  }
}

void close_instance(std::unique_ptr<TRITONBACKEND_ModelInstance> instance)
{
  if (instance->model->backend->instance_finalize != nullptr) {
    log_failure(
        "failed finalizing instance '" + instance->name + "'",
        instance->model->backend->instance_finalize(instance.get()));
  }
}

void execute(TRITONBACKEND_ModelInstance& instance, std::vector<std::unique_ptr<TRITONBACKEND_Request>>&& requests)
{
  std::vector<TRITONBACKEND_Request*> given;
  std::vector<FlightHandle> flights;
  for (std::unique_ptr<TRITONBACKEND_Request>& request : requests) {
    flights.push_back(request->flight);
    given.push_back(request.release());
  }
  std::vector<TRITONBACKEND_Request*> kept = given;
  instance.compute_start_ns = instance.compute_end_ns = 0;
  Error* error = instance.model->backend->execute(&instance, given.data(), static_cast<uint32_t>(given.size()));
  if (error != nullptr) {  // they are ours still, and the error is each one's answer
    for (size_t index = 0; index < kept.size(); ++index) {
      if (!flights[index]->released) {
        flights[index]->ended = true;
        delete kept[index];
      }
    }
  }
  raise(error);
}

}  // namespace despina

TRITONBACKEND_Backend::~TRITONBACKEND_Backend()
{
  if (initialised && finalize != nullptr) {
    despina::log_failure("failed finalizing backend '" + name + "'", finalize(this));
  }
}
