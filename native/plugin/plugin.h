// Repository agents and response caches: libraries that the server loads, and what they are shown.
#pragma once

#include "core/values.h"

struct TRITONREPOAGENT_Agent {
  using Call = TRITONSERVER_Error* (*)(TRITONREPOAGENT_Agent*);
  using ModelCall = TRITONSERVER_Error* (*)(TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*);
  using ActionCall =
      TRITONSERVER_Error* (*)(TRITONREPOAGENT_Agent*, TRITONREPOAGENT_AgentModel*, const TRITONREPOAGENT_ActionType);

  void* library = nullptr;
  void* state = nullptr;
  ModelCall model_initialize = nullptr;
  ModelCall model_finalize = nullptr;
  ActionCall action = nullptr;
};

struct TRITONREPOAGENT_AgentModel {
  std::string location;
  std::string new_location;          // set by the agent
  std::string acquired;              // a directory of its own, once it has asked for one
  std::string config;
  std::vector<std::pair<std::string, std::string>> parameters;
  TRITONREPOAGENT_ActionType action = TRITONREPOAGENT_ACTION_LOAD;
  void* state = nullptr;
};

struct TRITONCACHE_CacheEntry {
  struct Buffer {
    void* base;
    TRITONSERVER_BufferAttributes attributes;
  };
  std::vector<Buffer> buffers;
};

// Where TRITONCACHE_Copy takes bytes from, of an insertion, or brings them to, of a look-up.
struct TRITONCACHE_Allocator {
  const std::string* inserted = nullptr;
  std::string* found = nullptr;
};

namespace despina {

struct Cache {
  using Call = TRITONSERVER_Error* (*)(TRITONCACHE_Cache*);
  using EntryCall =
      TRITONSERVER_Error* (*)(TRITONCACHE_Cache*, const char*, TRITONCACHE_CacheEntry*, TRITONCACHE_Allocator*);

  void* library = nullptr;
  TRITONCACHE_Cache* cache = nullptr;
  Call finalize = nullptr;
  EntryCall lookup = nullptr;
  EntryCall insert = nullptr;
};

std::unique_ptr<TRITONREPOAGENT_Agent> open_agent(const std::string& path);
void initialize_agent_model(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model);
void act(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model, TRITONREPOAGENT_ActionType action);
void finalize_agent_model(TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model);

std::unique_ptr<Cache> open_cache(const std::string& path, const std::string& config);
bool insert(Cache& cache, const std::string& key, const std::string& entry);     // false: there is one
bool lookup(Cache& cache, const std::string& key, std::string* entry);           // false: there is none
void close_cache(std::unique_ptr<Cache> cache);

}  // namespace despina
