// Between the library, which knows no Python, and the extension module, which knows both. Not part of the API.
#pragma once

#include "backend/backend.h"
#include "core/server.h"
#include "plugin/plugin.h"

namespace despina {

// What a call into Python has come to. `text` is from malloc, and whoever called frees it.
struct Reply {
  int code = -1;             // of a TRITONSERVER_Error_Code, or -1 for none
  char* text = nullptr;
  size_t size = 0;
};

// What Python does for the library. From any thread; takes the interpreter.
struct Hooks {
  void (*call)(const void* object, const char* operation, const char* arguments, size_t size, Reply* reply) = nullptr;
};

// What the library does for Python. No exception crosses it: each side has an unwinder of its own.
struct Bridge {
  void (*set_hooks)(const Hooks& hooks);
  void (*publish)(TRITONSERVER_Server& server, std::vector<ModelHandle>&& models);
  std::vector<Event> (*pop)(TRITONSERVER_Server& server, size_t most);
  void (*answer)(TRITONSERVER_Server& server, std::vector<std::unique_ptr<Answer>>&& answers);
  std::vector<void*> (*spent_owners)(TRITONSERVER_Server& server);
  void (*close)(TRITONSERVER_Server& server);
  std::string (*metrics_text)();
  void (*set_log_levels)(uint32_t levels);
  Error* (*new_server)(TRITONSERVER_Server** server);
  Error* (*open_model)(
      std::unique_ptr<TRITONBACKEND_Model>& model, const char* path, const char* backend, const char* folder,
      const char* config);
  void (*close_model)(std::unique_ptr<TRITONBACKEND_Model> model);
  Error* (*open_instance)(std::unique_ptr<TRITONBACKEND_ModelInstance>& instance);
  void (*close_instance)(std::unique_ptr<TRITONBACKEND_ModelInstance> instance);
  Error* (*execute)(
      TRITONBACKEND_ModelInstance& instance, std::vector<std::unique_ptr<TRITONBACKEND_Request>>&& requests);
  Error* (*open_agent)(std::unique_ptr<TRITONREPOAGENT_Agent>& agent, const char* path);
  Error* (*initialize_agent_model)(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model);
  Error* (*act)(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model, TRITONREPOAGENT_ActionType action);
  Error* (*finalize_agent_model)(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model);
  Error* (*open_cache)(std::unique_ptr<Cache>& cache, const char* path, const char* config);
  Error* (*insert)(Cache& cache, const char* key, const std::string& entry, bool* is_new);
  Error* (*lookup)(Cache& cache, const char* key, std::string* entry, bool* is_there);
  Error* (*close_cache)(std::unique_ptr<Cache>& cache);
};

}  // namespace despina

extern "C" __attribute__((visibility("default"))) const despina::Bridge* despina_bridge();
