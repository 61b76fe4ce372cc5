// Libraries libtriton_<name>.so: what of them, of their models, instances and requests is on this side.
#pragma once

#include "core/values.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <list>
#include <mutex>

using BackendCall = TRITONSERVER_Error* (*)(TRITONBACKEND_Backend*);
using ModelCall = TRITONSERVER_Error* (*)(TRITONBACKEND_Model*);
using InstanceCall = TRITONSERVER_Error* (*)(TRITONBACKEND_ModelInstance*);

struct TRITONBACKEND_BackendAttribute {
  TRITONSERVER_InstanceGroupKind preferred_kind = TRITONSERVER_INSTANCEGROUPKIND_AUTO;  // of the first group
  bool parallel_loading = false;
};

struct TRITONBACKEND_MemoryManager {};

// One library, shared by its models; the last of them finalizes it. It stays in memory: see life.cc.
struct TRITONBACKEND_Backend {
  std::string name;
  std::string folder;
  TRITONSERVER_Message config;
  void* library = nullptr;
  void* state = nullptr;
  TRITONBACKEND_ExecutionPolicy policy = TRITONBACKEND_EXECUTION_BLOCKING;
  TRITONBACKEND_BackendAttribute attributes;
  TRITONBACKEND_MemoryManager memory;
  bool initialised = false;
  BackendCall finalize = nullptr;
  ModelCall model_initialize = nullptr;
  ModelCall model_finalize = nullptr;
  InstanceCall instance_initialize = nullptr;
  InstanceCall instance_finalize = nullptr;
  InstanceCall instance_ready = nullptr;
  TRITONSERVER_Error* (*execute)(TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request**, const uint32_t) = nullptr;

  ~TRITONBACKEND_Backend();
};

struct TRITONBACKEND_Model {
  std::shared_ptr<TRITONBACKEND_Backend> backend;
  std::string name;
  uint64_t version = 0;
  std::string folder;
  std::string config;
  bool auto_complete = false;
  bool decoupled = false;
  bool initialising = false;
  std::vector<std::string> outputs;   // names of the configuration's, once it is complete
  std::vector<std::string> states;    // and of states
  void* server = nullptr;             // a TRITONSERVER_Server to ask other models by, or null
  void* state = nullptr;
};

namespace despina {

struct BackendInput {
  TensorHandle tensor;
  uint64_t byte_size = 0;
  const void* base = nullptr;
  std::unique_ptr<char[]> copy;       // of a small view
  void* owner = nullptr;              // keeps the bytes otherwise
  TRITONSERVER_BufferAttributes attributes;
};

struct BackendOutput {
  Tensor tensor;
  void* base = nullptr;
  uint64_t byte_size = 0;
  TRITONSERVER_BufferAttributes attributes;

  BackendOutput() = default;
  BackendOutput(const BackendOutput&) = delete;
  BackendOutput& operator=(const BackendOutput&) = delete;
  ~BackendOutput() { std::free(base); }
};

using NamesHandle = std::shared_ptr<const std::vector<std::string>>;

struct Flight;
using FlightHandle = std::shared_ptr<Flight>;

// What an instance has to tell Python of one request.
struct Told {
  enum Kind { kAnswer, kState, kReschedule, kWatch };
  Kind kind;
  uint64_t tag;
  bool final = true;
  std::unique_ptr<TRITONBACKEND_Response> response;   // null for an end without one
  std::unique_ptr<BackendOutput> state;
};

// Where responses wait for Python: those of the batch that executes, and those that come otherwise.
class Outbox {
 public:
  // For the instance's thread: what was told of the requests since the last time, but for those that are late.
  std::vector<Told> collect();
  // The same, and what is spent.
  std::vector<Told> collect(std::vector<void*>& spent);
  // From now on what is told of these goes the other way.
  void let_be_late(const std::vector<FlightHandle>& flights);
  // Waits for something of the other kind, at most so long.
  std::vector<Told> wait(unsigned milliseconds);
  // Ends all waiting.
  void close();

  // From any thread. Blocks while too much waits, but for ends.
  void tell(Flight& flight, Told&& told);

  // A request of the instance is the library's now, and has been let go of, with what its inputs held.
  void enter();
  void leave(const std::list<TRITONBACKEND_Input>& inputs);
  // Waits until the library has none.
  void until_left();
  std::vector<void*> spent();

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::condition_variable room_;
  std::condition_variable left_;
  size_t requests_ = 0;               // that the library has
  std::vector<Told> collected_;
  std::deque<Told> late_;
  std::vector<void*> spent_;
  bool closed_ = false;
};

// One request as long as anybody may still answer it.
struct Flight {
  uint64_t tag;
  std::shared_ptr<Outbox> outbox;
  TRITONBACKEND_Model* model;
  bool decoupled;
  bool late = false;                  // under the outbox' lock
  std::atomic<bool> ended{false};
  std::atomic<bool> cancelled{false};
  std::atomic<bool> watched{false};
  std::atomic<bool> released{false};

  ~Flight();
};

}  // namespace despina

struct TRITONBACKEND_ModelInstance {
  TRITONBACKEND_Model* model;
  std::string name;
  TRITONSERVER_InstanceGroupKind kind;
  int32_t device_id;
  TRITONSERVER_Message host_policy;
  std::shared_ptr<despina::Outbox> outbox = std::make_shared<despina::Outbox>();
  std::mutex mutex;
  std::vector<std::pair<uint64_t, std::weak_ptr<despina::Flight>>> flights;   // by tag, which only grow
  uint64_t compute_start_ns = 0;      // of the last execution, as the backend has reported it
  uint64_t compute_end_ns = 0;
  void* state = nullptr;
};

struct TRITONBACKEND_Input : despina::BackendInput {};
struct TRITONBACKEND_Output : despina::BackendOutput {
  TRITONBACKEND_Response* response = nullptr;
};
struct TRITONBACKEND_State : despina::BackendOutput {
  despina::Flight* flight = nullptr;  // of the request that has it
};

struct TRITONBACKEND_Request {
  explicit TRITONBACKEND_Request(despina::FlightHandle flight);
  TRITONBACKEND_Request(const TRITONBACKEND_Request&) = delete;
  TRITONBACKEND_Request& operator=(const TRITONBACKEND_Request&) = delete;
  ~TRITONBACKEND_Request();

  const despina::FlightHandle flight;
  std::string id;
  uint32_t flags = 0;
  uint64_t correlation_id = 0;
  std::string correlation_text;
  uint64_t timeout_us = 0;
  std::list<TRITONBACKEND_Input> inputs;
  std::list<TRITONBACKEND_State> states;
  despina::NamesHandle outputs;
  despina::Parameters parameters;
};

struct TRITONBACKEND_Response {
  despina::FlightHandle flight;
  std::list<TRITONBACKEND_Output> outputs;
  despina::Parameters parameters;
  bool failed = false;
  TRITONSERVER_Error_Code code = TRITONSERVER_ERROR_UNKNOWN;
  std::string text;
};

struct TRITONBACKEND_ResponseFactory {
  despina::FlightHandle flight;
};

namespace despina {

// Libraries that do not name ours as one that they need find its functions all the same.
void show_functions_to_all();

// Finds the library loaded already, or loads it. Raises what it says.
std::shared_ptr<TRITONBACKEND_Backend> open_backend(
    const std::string& path, const std::string& name, const std::string& folder, const std::string& config);

void open_model(TRITONBACKEND_Model& model);
void close_model(std::unique_ptr<TRITONBACKEND_Model> model);
void open_instance(TRITONBACKEND_ModelInstance& instance);
void close_instance(std::unique_ptr<TRITONBACKEND_ModelInstance> instance);

// Executes them. Raises what the backend returns; then, as after a success, they are the backend's or gone.
void execute(TRITONBACKEND_ModelInstance& instance, std::vector<std::unique_ptr<TRITONBACKEND_Request>>&& requests);

}  // namespace despina
