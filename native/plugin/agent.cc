#include "plugin/plugin.h"

#include "backend/backend.h"
#include "core/server.h"

#include <dlfcn.h>

namespace despina {

namespace {

void* load_plugin(const std::string& path)
{
  show_functions_to_all();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    refuse(TRITONSERVER_ERROR_NOT_FOUND, std::string("unable to load shared library: ") + dlerror());
  }
  return library;
}

template <class Function>
Function plugin_entry(void* library, const char* name, bool needed)
{
  void* found = dlsym(library, name);
  if (found == nullptr && needed) {
    refuse(TRITONSERVER_ERROR_NOT_FOUND,
           std::string("unable to find required entrypoint '") + name + "' in shared library");
  }
  return reinterpret_cast<Function>(found);
}

const char* word_of(TRITONREPOAGENT_ActionType action)
{
  static const char* const words[] = {"TRITONREPOAGENT_ACTION_LOAD", "TRITONREPOAGENT_ACTION_LOAD_COMPLETE",
                                      "TRITONREPOAGENT_ACTION_LOAD_FAIL", "TRITONREPOAGENT_ACTION_UNLOAD",
                                      "TRITONREPOAGENT_ACTION_UNLOAD_COMPLETE"};
  return words[action];
}

}  // namespace

std::unique_ptr<TRITONREPOAGENT_Agent> open_agent(const std::string& path)
{
  auto agent = std::make_unique<TRITONREPOAGENT_Agent>();
  void* library = agent->library = load_plugin(path);
  using Agent = TRITONREPOAGENT_Agent;
  agent->model_initialize = plugin_entry<Agent::ModelCall>(library, "TRITONREPOAGENT_ModelInitialize", false);
  agent->model_finalize = plugin_entry<Agent::ModelCall>(library, "TRITONREPOAGENT_ModelFinalize", false);
  agent->action = plugin_entry<Agent::ActionCall>(library, "TRITONREPOAGENT_ModelAction", true);
  const auto initialize = plugin_entry<Agent::Call>(library, "TRITONREPOAGENT_Initialize", false);
  if (initialize != nullptr) {
    raise(initialize(agent.get()));
  }
  return agent;
}

void initialize_agent_model(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model)
{
  if (agent.model_initialize != nullptr) {
    raise(agent.model_initialize(&agent, &model));
  }
}

void act(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model, TRITONREPOAGENT_ActionType action)
{
  model.action = action;
  raise(agent.action(&agent, &model, action));
}

void finalize_agent_model(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model)
{
  if (agent.model_finalize != nullptr) {
    raise(agent.model_finalize(&agent, &model));
  }
}

}  // namespace despina

using namespace despina;

namespace {

void check_filesystem(TRITONREPOAGENT_ArtifactType type)
{
  if (type != TRITONREPOAGENT_ARTIFACT_FILESYSTEM) {
    refuse(TRITONSERVER_ERROR_UNSUPPORTED, "Unsupported filesystem: " + std::to_string(type));
  }
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONREPOAGENT_ApiVersion(uint32_t* major, uint32_t* minor)
{
  *major = TRITONREPOAGENT_API_VERSION_MAJOR;
  *minor = TRITONREPOAGENT_API_VERSION_MINOR;
  return nullptr;
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelRepositoryLocation(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, TRITONREPOAGENT_ArtifactType* artifact_type,
    const char** location)
{
  (void)agent;
  return guarded([&] {
    *artifact_type = TRITONREPOAGENT_ARTIFACT_FILESYSTEM;
    *location = need(model, "model").location.c_str();
  });
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelRepositoryLocationAcquire(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, const TRITONREPOAGENT_ArtifactType artifact_type,
    const char** location)
{
  (void)agent;
  return guarded([&] {
    check_filesystem(artifact_type);
    if (need(model, "model").acquired.empty()) {
      model->acquired = ask(model, "agent_acquire", "[]");
    }
    *location = model->acquired.c_str();
  });
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelRepositoryLocationRelease(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, const char* location)
{
  (void)agent;
  return guarded([&] {
    if (need(model, "model").acquired != text_of(location) || model->acquired.empty()) {
      refuse(TRITONSERVER_ERROR_NOT_FOUND, "location '" + text_of(location) + "' was not acquired");
    }
    ask(model, "agent_release", "[]");
    model->acquired.clear();
  });
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelRepositoryUpdate(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, const TRITONREPOAGENT_ArtifactType artifact_type,
    const char* location)
{
  (void)agent;
  return guarded([&] {
    if (need(model, "model").action != TRITONREPOAGENT_ACTION_LOAD) {
      invalid(std::string("location can only be updated during TRITONREPOAGENT_ACTION_LOAD, current action type is ") +
              word_of(model->action));
    }
    check_filesystem(artifact_type);
    model->new_location = text_of(location);
  });
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelParameterCount(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, uint32_t* count)
{
  (void)agent;
  return guarded([&] { *count = static_cast<uint32_t>(need(model, "model").parameters.size()); });
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelParameter(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, const uint32_t index, const char** parameter_name,
    const char** parameter_value)
{
  (void)agent;
  return guarded([&] {
    const auto& parameters = need(model, "model").parameters;
    if (index >= parameters.size()) {
      invalid("index out of range for model parameters");
    }
    *parameter_name = parameters[index].first.c_str();
    *parameter_value = parameters[index].second.c_str();
  });
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelConfig(
    TRITONREPOAGENT_Agent* agent, TRITONREPOAGENT_AgentModel* model, const uint32_t config_version,
    TRITONSERVER_Message** model_config)
{
  (void)agent;
  return guarded([&] {
    if (config_version != 1) {
      invalid("model configuration version " + std::to_string(config_version) +
              " not supported, supported versions are: 1");
    }
    *model_config = new TRITONSERVER_Message{need(model, "model").config};
  });
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelState(TRITONREPOAGENT_AgentModel* model, void** state)
{
  return guarded([&] { *state = need(model, "model").state; });
}

TRITONSERVER_Error* TRITONREPOAGENT_ModelSetState(TRITONREPOAGENT_AgentModel* model, void* state)
{
  return guarded([&] { need(model, "model").state = state; });
}

TRITONSERVER_Error* TRITONREPOAGENT_State(TRITONREPOAGENT_Agent* agent, void** state)
{
  return guarded([&] { *state = need(agent, "agent").state; });
}

TRITONSERVER_Error* TRITONREPOAGENT_SetState(TRITONREPOAGENT_Agent* agent, void* state)
{
  return guarded([&] { need(agent, "agent").state = state; });
}

}  // extern "C"
