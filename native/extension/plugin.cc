// What Python does with repository agents and response caches.

#include "extension/objects.h"

namespace despina {

PyObject* agent_open(PyObject*, PyObject* path)
{
  return python_guarded([&] {
    const std::string file = text_from(path);
    std::unique_ptr<TRITONREPOAGENT_Agent> agent;
    Ref outcome = outcome_of([&] { return despina_bridge()->open_agent(agent, file.c_str()); });
    Ref address = agent == nullptr ? borrowed(Py_None) : pointer_object(agent.release());
    return tuple_of(std::move(address), std::move(outcome)).release();
  });
}

// (agent, location, configuration, parameters): (address, (code, text))
PyObject* agent_model_open(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *agent, *parameters;
    const char *location, *config;
    if (!PyArg_ParseTuple(arguments, "OssO", &agent, &location, &config, &parameters)) {
      return nullptr;
    }
    auto model = std::make_unique<TRITONREPOAGENT_AgentModel>();
    model->location = location;
    model->config = config;
    for_each(parameters, [&](PyObject* item) {
      model->parameters.emplace_back(text_from(item_of(item, 0).get()), text_from(item_of(item, 1).get()));
    });
    TRITONREPOAGENT_Agent& owner = *pointer_from<TRITONREPOAGENT_Agent>(agent);
    Ref outcome = outcome_of([&] { return despina_bridge()->initialize_agent_model(owner, *model); });
    if (number_from(item_of(outcome.get(), 0).get()) >= 0) {
      return tuple_of(borrowed(Py_None), std::move(outcome)).release();
    }
    return tuple_of(pointer_object(model.release()), std::move(outcome)).release();
  });
}

// (agent, model, location, action): ((code, text), new location or "")
PyObject* agent_act(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *agent, *number;
    const char* location;
    int action;
    if (!PyArg_ParseTuple(arguments, "OOsi", &agent, &number, &location, &action)) {
      return nullptr;
    }
    TRITONREPOAGENT_AgentModel& model = *pointer_from<TRITONREPOAGENT_AgentModel>(number);
    model.location = location;
    model.new_location.clear();
    TRITONREPOAGENT_Agent& owner = *pointer_from<TRITONREPOAGENT_Agent>(agent);
    Ref outcome = outcome_of(
        [&] { return despina_bridge()->act(owner, model, static_cast<TRITONREPOAGENT_ActionType>(action)); });
    return tuple_of(std::move(outcome), text_object(model.new_location)).release();
  });
}

PyObject* agent_model_close(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *agent, *number;
    if (!PyArg_ParseTuple(arguments, "OO", &agent, &number)) {
      return nullptr;
    }
    const std::unique_ptr<TRITONREPOAGENT_AgentModel> gone(pointer_from<TRITONREPOAGENT_AgentModel>(number));
    TRITONREPOAGENT_Agent& owner = *pointer_from<TRITONREPOAGENT_Agent>(agent);
    return outcome_of([&] { return despina_bridge()->finalize_agent_model(owner, *gone); }).release();
  });
}

PyObject* cache_open(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    const char *path, *config;
    if (!PyArg_ParseTuple(arguments, "ss", &path, &config)) {
      return nullptr;
    }
    std::unique_ptr<Cache> cache;
    Ref outcome = outcome_of([&] { return despina_bridge()->open_cache(cache, path, config); });
    Ref address = cache == nullptr ? borrowed(Py_None) : pointer_object(cache.release());
    return tuple_of(std::move(address), std::move(outcome)).release();
  });
}

// ((code, text), whether it was new)
PyObject* cache_insert(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject* number;
    const char *key, *base;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "Osy#", &number, &key, &base, &size)) {
      return nullptr;
    }
    const std::string entry(base, static_cast<size_t>(size));
    bool is_new = false;
    Ref outcome = outcome_of(
        [&] { return despina_bridge()->insert(*pointer_from<Cache>(number), key, entry, &is_new); });
    return tuple_of(std::move(outcome), Ref(PyBool_FromLong(is_new))).release();
  });
}

// ((code, text), the entry or None)
PyObject* cache_lookup(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject* number;
    const char* key;
    if (!PyArg_ParseTuple(arguments, "Os", &number, &key)) {
      return nullptr;
    }
    std::string entry;
    bool is_there = false;
    Ref outcome = outcome_of(
        [&] { return despina_bridge()->lookup(*pointer_from<Cache>(number), key, &entry, &is_there); });
    Ref found = is_there ? Ref(PyBytes_FromStringAndSize(entry.data(), static_cast<Py_ssize_t>(entry.size())))
                         : borrowed(Py_None);
    return tuple_of(std::move(outcome), std::move(found)).release();
  });
}

PyObject* cache_close(PyObject*, PyObject* number)
{
  return python_guarded([&] {
    std::unique_ptr<Cache> gone(pointer_from<Cache>(number));
    return outcome_of([&] { return despina_bridge()->close_cache(gone); }).release();
  });
}

}  // namespace despina
