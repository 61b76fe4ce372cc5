#include "core/server.h"

#include "core/bridge.h"
#include "core/log.h"
#include "core/metric.h"

#include <atomic>
#include <cstdlib>
#include <pthread.h>

using namespace despina;

using Server = TRITONSERVER_Server;

namespace despina {

namespace {

std::atomic<decltype(Hooks::call)> ask_python{nullptr};  // given anew with every server
std::atomic<int> forks{0};
std::atomic<uint64_t> last_ticket{0};

struct NoticesForks {
  NoticesForks()
  {
    pthread_atfork(nullptr, nullptr, [] { ++forks; });
  }
} notices_forks;

std::string named(const char* name, int64_t version)
{
  return "[" + quoted(name) + "," + std::to_string(version) + "]";
}

std::string parameter_json(const Parameter& parameter)
{
  std::string value;
  switch (parameter.type) {
    case TRITONSERVER_PARAMETER_STRING:
      value = quoted(parameter.text.c_str());
      break;
    case TRITONSERVER_PARAMETER_INT:
      value = std::to_string(parameter.integer);
      break;
    case TRITONSERVER_PARAMETER_BOOL:
      value = parameter.truth ? "true" : "false";
      break;
    case TRITONSERVER_PARAMETER_DOUBLE:
      value = std::to_string(parameter.real);
      break;
    case TRITONSERVER_PARAMETER_BYTES: {
      static const char digits[] = "0123456789abcdef";
      value = "{\"hex\":\"";
      for (const char letter : parameter.text) {
        value += digits[static_cast<unsigned char>(letter) >> 4];
        value += digits[static_cast<unsigned char>(letter) & 15];
      }
      value += "\"}";
    }
  }
  return "[" + quoted(parameter.name.c_str()) + "," + value + "]";
}

std::string parameters_json(const TRITONSERVER_Parameter** parameters, uint64_t count)
{
  std::string json;
  for (uint64_t index = 0; index < count; ++index) {
    json += (index == 0 ? "" : ",") + parameter_json(need(parameters[index], "parameter"));
  }
  return "[" + json + "]";
}

Server& checked(Server* server)
{
  alive(server);
  return *server;
}

Error* told(Server* server, const char* operation, const std::string& arguments)
{
  return guarded([&] { checked(server).call(operation, arguments); });
}

Error* message_of(Server* server, const char* operation, const std::string& arguments, TRITONSERVER_Message** message)
{
  return guarded(
      [&] { *message = new TRITONSERVER_Message{checked(server).call(operation, arguments)}; });
}

Error* truth_of(Server* server, const char* operation, const std::string& arguments, bool* truth)
{
  return guarded([&] { *truth = checked(server).call(operation, arguments) == "true"; });
}

}  // namespace

void alive(Server* server)
{
  need(server, "server");
  if (server->process != forks) {
    refuse(TRITONSERVER_ERROR_UNAVAILABLE,
           "the server belongs to the process that made it: after a fork, make one in the child");
  }
}

std::string ask(const void* object, const char* operation, const std::string& arguments)
{
  const auto call = ask_python.load();
  if (call == nullptr) {
    refuse(TRITONSERVER_ERROR_UNAVAILABLE, "there is no interpreter: make a server first");
  }
  Reply reply;
  call(object, operation, arguments.data(), arguments.size(), &reply);
  std::string text(reply.text == nullptr ? "" : reply.text, reply.size);
  std::free(reply.text);
  if (reply.code >= 0) {
    refuse(static_cast<TRITONSERVER_Error_Code>(reply.code), std::move(text));
  }
  return text;
}

bool has_hooks()
{
  return ask_python.load() != nullptr;
}

}  // namespace despina

TRITONSERVER_Server::TRITONSERVER_Server() : delivery(submissions), process(forks) {}

std::string TRITONSERVER_Server::call(const char* operation, const std::string& arguments)
{
  return ask(this, operation, arguments);
}

extern "C" {

const Bridge* despina_bridge()
{
  static const Bridge bridge = {
      [](const Hooks& given) { ask_python.store(given.call); },
      [](Server& server, std::vector<ModelHandle>&& models) { server.models.publish(std::move(models)); },
      [](Server& server, size_t most) { return server.submissions.pop(most); },
      [](Server& server, std::vector<std::unique_ptr<Answer>>&& answers) { server.delivery.put(std::move(answers)); },
      [](Server& server) { return server.delivery.spent_owners(); },
      [](Server& server) { server.submissions.close(); },
      &metrics_text,
      &set_log_levels,
      [](Server** server) { return guarded([&] { *server = new Server; }); },
      [](std::unique_ptr<TRITONBACKEND_Model>& model, const char* path, const char* backend, const char* folder,
         const char* config) {
        return guarded([&] {
          model->backend = open_backend(path, backend, folder, config);
          open_model(*model);
        });
      },
      [](std::unique_ptr<TRITONBACKEND_Model> model) { close_model(std::move(model)); },
      [](std::unique_ptr<TRITONBACKEND_ModelInstance>& instance) {
        return guarded([&] { open_instance(*instance); });
      },
      [](std::unique_ptr<TRITONBACKEND_ModelInstance> instance) { close_instance(std::move(instance)); },
      [](TRITONBACKEND_ModelInstance& instance, std::vector<std::unique_ptr<TRITONBACKEND_Request>>&& requests) {
        return guarded([&] { execute(instance, std::move(requests)); });
      },
      [](std::unique_ptr<TRITONREPOAGENT_Agent>& agent, const char* path) {
        return guarded([&] { agent = open_agent(path); });
      },
      [](TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model) {
        return guarded([&] { initialize_agent_model(agent, model); });
      },
      [](TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model, TRITONREPOAGENT_ActionType action) {
        return guarded([&] { act(agent, model, action); });
      },
      [](TRITONREPOAGENT_Agent& agent, TRITONREPOAGENT_AgentModel& model) {
        return guarded([&] { finalize_agent_model(agent, model); });
      },
      [](std::unique_ptr<Cache>& cache, const char* path, const char* config) {
        return guarded([&] { cache = open_cache(path, config); });
      },
      [](Cache& cache, const char* key, const std::string& entry, bool* is_new) {
        return guarded([&] { *is_new = insert(cache, key, entry); });
      },
      [](Cache& cache, const char* key, std::string* entry, bool* is_there) {
        return guarded([&] { *is_there = lookup(cache, key, entry); });
      },
      [](std::unique_ptr<Cache>& cache) { return guarded([&] { close_cache(std::move(cache)); }); },
  };
  return &bridge;
}

TRITONSERVER_Error* TRITONSERVER_ServerOptionsNew(TRITONSERVER_ServerOptions** options)
{
  return guarded([&] { *options = new TRITONSERVER_ServerOptions; });
}

TRITONSERVER_Error* TRITONSERVER_ServerOptionsDelete(TRITONSERVER_ServerOptions* options)
{
  delete options;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerNew(TRITONSERVER_Server** server, TRITONSERVER_ServerOptions* options)
{
  return guarded([&] {
    const std::string given = "[" + need(options, "options").json + "]";
    boot();
    auto made = std::make_unique<Server>();
    made->call("new", given);
    *server = made.release();
  });
}

TRITONSERVER_Error* TRITONSERVER_ServerDelete(TRITONSERVER_Server* server)
{
  return guarded([&] {
    if (server == nullptr) {
      return;
    }
    alive(server);
    if (server->delivery.is_this_thread()) {
      refuse(TRITONSERVER_ERROR_UNSUPPORTED, "a server cannot be deleted within one of its callbacks");
    }
    const std::unique_ptr<Server> gone(server);
    Error* error = guarded([&] { gone->call("delete", "[]"); });
    gone->delivery.finish();
    ask(server, "forget", "[]");
    raise(error);
  });
}

TRITONSERVER_Error* TRITONSERVER_ServerStop(TRITONSERVER_Server* server)
{
  return told(server, "stop", "[]");
}

TRITONSERVER_Error* TRITONSERVER_ServerSetExitTimeout(TRITONSERVER_Server* server, unsigned int timeout)
{
  return told(server, "exit_timeout", "[" + std::to_string(timeout) + "]");
}

TRITONSERVER_Error* TRITONSERVER_ServerRegisterModelRepository(
    TRITONSERVER_Server* server, const char* repository_path, const TRITONSERVER_Parameter** name_mapping,
    const uint32_t mapping_count)
{
  return guarded([&] {
    checked(server).call(
        "register", "[" + quoted(repository_path) + "," + parameters_json(name_mapping, mapping_count) + "]");
  });
}

TRITONSERVER_Error* TRITONSERVER_ServerUnregisterModelRepository(
    TRITONSERVER_Server* server, const char* repository_path)
{
  return told(server, "unregister", "[" + quoted(repository_path) + "]");
}

TRITONSERVER_Error* TRITONSERVER_ServerPollModelRepository(TRITONSERVER_Server* server)
{
  return told(server, "poll", "[]");
}

TRITONSERVER_Error* TRITONSERVER_ServerIsLive(TRITONSERVER_Server* server, bool* live)
{
  return truth_of(server, "live", "[]", live);
}

TRITONSERVER_Error* TRITONSERVER_ServerIsReady(TRITONSERVER_Server* server, bool* ready)
{
  return truth_of(server, "ready", "[]", ready);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelIsReady(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, bool* ready)
{
  return truth_of(server, "model_ready", named(model_name, model_version), ready);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelBatchProperties(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, uint32_t* flags, void** voidp)
{
  return guarded([&] {
    const bool batches = checked(server).call("batches", named(model_name, model_version)) == "true";
    *flags = batches ? TRITONSERVER_BATCH_FIRST_DIM : TRITONSERVER_BATCH_UNKNOWN;
    if (voidp != nullptr) {
      *voidp = nullptr;
    }
  });
}

TRITONSERVER_Error* TRITONSERVER_ServerModelTransactionProperties(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, uint32_t* txn_flags,
    void** voidp)
{
  return guarded([&] {
    const bool decoupled = checked(server).call("decoupled", named(model_name, model_version)) == "true";
    *txn_flags = decoupled ? TRITONSERVER_TXN_DECOUPLED : TRITONSERVER_TXN_ONE_TO_ONE;
    if (voidp != nullptr) {
      *voidp = nullptr;
    }
  });
}

TRITONSERVER_Error* TRITONSERVER_ServerMetadata(TRITONSERVER_Server* server, TRITONSERVER_Message** server_metadata)
{
  return message_of(server, "metadata", "[]", server_metadata);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelMetadata(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version,
    TRITONSERVER_Message** model_metadata)
{
  return message_of(server, "model_metadata", named(model_name, model_version), model_metadata);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelStatistics(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version,
    TRITONSERVER_Message** model_stats)
{
  return message_of(server, "statistics", named(model_name, model_version), model_stats);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelConfig(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, const uint32_t config_version,
    TRITONSERVER_Message** model_config)
{
  return guarded([&] {
    if (config_version != 1) {
      invalid("model configuration version " + std::to_string(config_version) +
              " not supported, supported versions are: 1");
    }
    *model_config = new TRITONSERVER_Message{checked(server).call("config", named(model_name, model_version))};
  });
}

TRITONSERVER_Error* TRITONSERVER_ServerModelIndex(
    TRITONSERVER_Server* server, uint32_t flags, TRITONSERVER_Message** model_index)
{
  return message_of(
      server, "index", (flags & TRITONSERVER_INDEX_FLAG_READY) != 0 ? "[true]" : "[false]", model_index);
}

TRITONSERVER_Error* TRITONSERVER_ServerLoadModel(TRITONSERVER_Server* server, const char* model_name)
{
  return told(server, "load", "[" + quoted(model_name) + ",[]]");
}

TRITONSERVER_Error* TRITONSERVER_ServerLoadModelWithParameters(
    TRITONSERVER_Server* server, const char* model_name, const TRITONSERVER_Parameter** parameters,
    const uint64_t parameter_count)
{
  return guarded([&] {
    checked(server).call("load", "[" + quoted(model_name) + "," + parameters_json(parameters, parameter_count) + "]");
  });
}

TRITONSERVER_Error* TRITONSERVER_ServerUnloadModel(TRITONSERVER_Server* server, const char* model_name)
{
  return told(server, "unload", "[" + quoted(model_name) + ",false]");
}

TRITONSERVER_Error* TRITONSERVER_ServerUnloadModelAndDependents(TRITONSERVER_Server* server, const char* model_name)
{
  return told(server, "unload", "[" + quoted(model_name) + ",true]");
}

TRITONSERVER_Error* TRITONSERVER_ServerMetrics(TRITONSERVER_Server* server, TRITONSERVER_Metrics** metrics)
{
  return guarded([&] { *metrics = new TRITONSERVER_Metrics{checked(server).call("metrics", "[]")}; });
}

TRITONSERVER_Error* TRITONSERVER_ServerInferAsync(
    TRITONSERVER_Server* server, TRITONSERVER_InferenceRequest* inference_request, TRITONSERVER_InferenceTrace* trace)
{
  return guarded([&] {
    alive(server);
    TRITONSERVER_InferenceRequest& request = need(inference_request, "inference request");
    if (request.response_fn == nullptr || request.release_fn == nullptr) {
      invalid("an inference request needs a response callback and a release callback");
    }
    if (request.in_flight.exchange(true)) {
      invalid("the request is in flight: it may be sent again once it has been released");
    }
    request.server = server;
    request.cancelled = false;
    request.ticket = ++last_ticket;
    request.trace = trace;
    request.model = server->models.find(request.model_name, request.model_version);
    if (trace != nullptr) {
      trace->model_name = request.model_name;
      trace->model_version = request.model == nullptr ? request.model_version : request.model->version;
      trace->request_id = request.id;
    }
    try {
      if (request.model == nullptr || !surely_admits(*request.model, request)) {
        char pointer[32];
        std::snprintf(pointer, sizeof pointer, "%llu",
                      static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(&request)));
        server->call("submit", std::string("[") + pointer + "]");
      } else if (!server->submissions.push({Event::kInfer, &request, request.ticket})) {
        refuse(TRITONSERVER_ERROR_UNAVAILABLE, "Server not ready");
      }
    } catch (...) {
      request.trace = nullptr;
      request.model.reset();
      request.in_flight = false;
      throw;
    }
  });
}

#include "options.inc"

}  // extern "C"
