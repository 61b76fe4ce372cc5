// What Python does for models of backend libraries and their instances: opens and closes them. Batches: batch.cc.

#include "extension/batch.h"

namespace despina {

namespace {

std::vector<std::string> names_from(PyObject* sequence)
{
  std::vector<std::string> names;
  for_each(sequence, [&](PyObject* name) { names.push_back(text_from(name)); });
  return names;
}

}  // namespace

PyObject* model_open(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    const char *path, *backend, *folder, *backend_config, *name, *model_folder, *config;
    unsigned long long version;
    int auto_complete;
    PyObject* server;
    if (!PyArg_ParseTuple(
            arguments, "sssssKsspO", &path, &backend, &folder, &backend_config, &name, &version, &model_folder,
            &config, &auto_complete, &server)) {
      return nullptr;
    }
    auto model = std::make_unique<TRITONBACKEND_Model>();
    model->name = name;
    model->version = version;
    model->folder = model_folder;
    model->config = config;
    model->auto_complete = auto_complete != 0;
    model->server = server == Py_None ? nullptr : pointer_from<void>(server);
    Ref outcome = outcome_of(
        [&] { return despina_bridge()->open_model(model, path, backend, folder, backend_config); });
    if (number_from(item_of(outcome.get(), 0).get()) >= 0) {
      return tuple_of(borrowed(Py_None), std::move(outcome)).release();
    }
    return tuple_of(pointer_object(model.release()), std::move(outcome)).release();
  });
}

PyObject* model_facts(PyObject*, PyObject* model)
{
  return python_guarded([&] {
    const TRITONBACKEND_Model& found = *pointer_from<TRITONBACKEND_Model>(model);
    return tuple_of(
               text_object(found.config), number_object(found.backend->attributes.preferred_kind),
               Ref(PyBool_FromLong(found.backend->instance_ready != nullptr)))
        .release();
  });
}

PyObject* model_settle(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *number, *outputs, *states;
    const char* config;
    int decoupled;
    if (!PyArg_ParseTuple(arguments, "OspOO", &number, &config, &decoupled, &outputs, &states)) {
      return nullptr;
    }
    TRITONBACKEND_Model& model = *pointer_from<TRITONBACKEND_Model>(number);
    model.config = config;
    model.decoupled = decoupled != 0;
    model.outputs = names_from(outputs);
    model.states = names_from(states);
    return none();
  });
}

PyObject* model_close(PyObject*, PyObject* model)
{
  return python_guarded([&] {
    std::unique_ptr<TRITONBACKEND_Model> gone(pointer_from<TRITONBACKEND_Model>(model));
    {
      const Released released;
      despina_bridge()->close_model(std::move(gone));
    }
    return none();
  });
}

PyObject* instance_open(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject* model;
    const char *name, *host_policy;
    int kind, device_id;
    if (!PyArg_ParseTuple(arguments, "Osiis", &model, &name, &kind, &device_id, &host_policy)) {
      return nullptr;
    }
    auto instance = std::make_unique<TRITONBACKEND_ModelInstance>();
    instance->model = pointer_from<TRITONBACKEND_Model>(model);
    instance->name = name;
    instance->kind = static_cast<TRITONSERVER_InstanceGroupKind>(kind);
    instance->device_id = device_id;
    instance->host_policy.text = host_policy;
    Ref outcome = outcome_of([&] { return despina_bridge()->open_instance(instance); });
    if (number_from(item_of(outcome.get(), 0).get()) >= 0) {
      return tuple_of(borrowed(Py_None), std::move(outcome)).release();
    }
    return tuple_of(pointer_object(instance.release()), std::move(outcome)).release();
  });
}

PyObject* instance_close(PyObject*, PyObject* number)
{
  return python_guarded([&] {
    std::unique_ptr<TRITONBACKEND_ModelInstance> gone(pointer_from<TRITONBACKEND_ModelInstance>(number));
    const std::shared_ptr<Outbox> outbox = gone->outbox;
    forget(gone.get());
    {
      const Released released;
      despina_bridge()->close_instance(std::move(gone));
    }
    for (void* owner : outbox->spent()) {
      release_owner(owner);
    }
    return none();
  });
}

PyObject* instance_ready(PyObject*, PyObject* number)
{
  return python_guarded([&] {
    TRITONBACKEND_ModelInstance& instance = *pointer_from<TRITONBACKEND_ModelInstance>(number);
    return outcome_of([&]() -> Error* {
             const InstanceCall ready = instance.model->backend->instance_ready;
             return ready == nullptr ? nullptr : ready(&instance);
           })
        .release();
  });
}

}  // namespace despina
