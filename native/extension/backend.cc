// What Python does for models of backend libraries: opens and closes them, and executes batches, a call for each.

#include "extension/objects.h"

#include "backend/outbox.h"

#include <cstring>

namespace despina {

namespace {

constexpr Py_ssize_t kCopiedInput = 16 * 1024;

void fill_input(TRITONBACKEND_Input& input, PyObject* item)
{
  input.tensor = {
      text_from(item_of(item, 0).get()), datatype_from(item_of(item, 1).get()), shape_from(item_of(item, 2).get())};
  const Ref buffer = item_of(item, 3);
  auto view = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(buffer.get(), view.get(), PyBUF_SIMPLE) < 0) {
    throw PythonError{};
  }
  input.byte_size = static_cast<uint64_t>(view->len);
  if (view->len > kCopiedInput) {
    input.base = view->buf;
    input.owner = view.release();
  } else {
    input.copy.reset(new char[static_cast<size_t>(view->len) + 1]);
    std::memcpy(input.copy.get(), view->buf, static_cast<size_t>(view->len));
    input.base = input.copy.get();
    PyBuffer_Release(view.get());
  }
}

// Of (tag, id, flags, correlation id, timeout, inputs, outputs, parameters)
void fill_request(TRITONBACKEND_Request& request, PyObject* item)
{
  request.id = text_from(item_of(item, 1).get());
  request.flags = static_cast<uint32_t>(number_from(item_of(item, 2).get()));
  const Ref correlation = item_of(item, 3);
  if (PyUnicode_Check(correlation.get())) {
    request.correlation_text = text_from(correlation.get());
  } else {
    request.correlation_id = unsigned_from(correlation.get());
  }
  request.timeout_us = unsigned_from(item_of(item, 4).get());
  for_each(item_of(item, 5).get(), [&](PyObject* input) {
    request.inputs.emplace_back();
    fill_input(request.inputs.back(), input);
  });
  for_each(item_of(item, 6).get(), [&](PyObject* output) { request.outputs.push_back(text_from(output)); });
  request.parameters = parameters_from(item_of(item, 7).get());
}

// Answers a request that the library does not get to see with what Python says is wrong with it.
void turn_away(Flight& flight)
{
  auto response = std::make_unique<TRITONBACKEND_Response>();
  response->failed = true;
  response->code = TRITONSERVER_ERROR_INVALID_ARG;
  response->text = "the request cannot be given to the backend: " + taken_error();
  flight.ended = true;
  flight.outbox->tell(flight, {Told::kAnswer, flight.tag, true, std::move(response), nullptr});
}

// Null for one that cannot be given to the library, which is answered.
std::unique_ptr<TRITONBACKEND_Request> request_from(TRITONBACKEND_ModelInstance& instance, PyObject* item)
{
  const auto flight = std::make_shared<Flight>();
  flight->tag = unsigned_from(item_of(item, 0).get());
  flight->outbox = instance.outbox;
  flight->model = instance.model;
  flight->decoupled = instance.model->decoupled;
  auto request = std::make_unique<TRITONBACKEND_Request>(flight);
  try {
    fill_request(*request, item);
  } catch (const PythonError&) {
    turn_away(*flight);
    return nullptr;
  }
  return request;
}

Ref tensor_object(const BackendOutput& output)
{
  return tuple_of(
      text_object(output.tensor.name), datatype_object(output.tensor.datatype), shape_object(output.tensor.shape),
      Ref(PyBytes_FromStringAndSize(static_cast<const char*>(output.base), static_cast<Py_ssize_t>(output.byte_size))));
}

// (kind, tag, final, outputs, parameters, code, text); outputs are None for an end without a response.
Ref told_object(const Told& told)
{
  Ref outputs = borrowed(Py_None);
  Ref parameters = borrowed(Py_None);
  int64_t code = -1;
  std::string text;
  if (told.response != nullptr) {
    outputs = Ref(PyList_New(0));
    for (const TRITONBACKEND_Output& output : told.response->outputs) {
      const Ref tensor = tensor_object(output);
      if (PyList_Append(outputs.get(), tensor.get()) < 0) {
        throw PythonError{};
      }
    }
    parameters = parameters_object(told.response->parameters);
    if (told.response->failed) {
      code = told.response->code;
      text = told.response->text;
    }
  } else if (told.state != nullptr) {
    outputs = tensor_object(*told.state);
  }
  return tuple_of(
      number_object(told.kind), unsigned_object(told.tag), Ref(PyBool_FromLong(told.final)), std::move(outputs),
      std::move(parameters), number_object(code), text_object(text));
}

Ref told_list(const std::vector<Told>& told)
{
  Ref list(PyList_New(0));
  for (const Told& one : told) {
    const Ref item = told_object(one);
    if (PyList_Append(list.get(), item.get()) < 0) {
      throw PythonError{};
    }
  }
  return list;
}

void release_spent(TRITONBACKEND_ModelInstance& instance)
{
  for (void* owner : instance.outbox->spent()) {
    release_owner(owner);
  }
}

// Nothing of Python's happens under the instance's lock: another thread may have the interpreter, and wait for the lock.

void note_flights(
    TRITONBACKEND_ModelInstance& instance, const std::vector<std::unique_ptr<TRITONBACKEND_Request>>& requests)
{
  std::lock_guard<std::mutex> lock(instance.mutex);
  for (const auto& request : requests) {
    instance.flights[request->flight->tag] = request->flight;
  }
}

FlightHandle flight_of(TRITONBACKEND_ModelInstance& instance, uint64_t tag)
{
  std::lock_guard<std::mutex> lock(instance.mutex);
  const auto found = instance.flights.find(tag);
  return found == instance.flights.end() ? nullptr : found->second.lock();
}

// What the library has said of the last execution. Forgets the requests that are over.
std::pair<uint64_t, uint64_t> computed_ns(TRITONBACKEND_ModelInstance& instance)
{
  std::lock_guard<std::mutex> lock(instance.mutex);
  for (auto at = instance.flights.begin(); at != instance.flights.end();) {
    at = at->second.expired() ? instance.flights.erase(at) : std::next(at);
  }
  return {instance.compute_start_ns, instance.compute_end_ns};
}

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

// ((code, text), compute start, compute end, told)
PyObject* instance_execute(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *number, *given;
    if (!PyArg_ParseTuple(arguments, "OO", &number, &given)) {
      return nullptr;
    }
    TRITONBACKEND_ModelInstance& instance = *pointer_from<TRITONBACKEND_ModelInstance>(number);
    release_spent(instance);
    std::vector<std::unique_ptr<TRITONBACKEND_Request>> requests;
    for_each(given, [&](PyObject* item) {
      if (auto request = request_from(instance, item)) {
        requests.push_back(std::move(request));
      }
    });
    note_flights(instance, requests);
    Ref outcome = outcome_of(
        [&] { return requests.empty() ? nullptr : despina_bridge()->execute(instance, std::move(requests)); });
    Ref told = told_list(instance.outbox->collect());
    const auto [started_ns, ended_ns] = computed_ns(instance);
    return tuple_of(std::move(outcome), unsigned_object(started_ns), unsigned_object(ended_ns), std::move(told))
        .release();
  });
}

// What was told of those until now; from now on it is waited for.
PyObject* instance_let_be_late(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *number, *tags;
    if (!PyArg_ParseTuple(arguments, "OO", &number, &tags)) {
      return nullptr;
    }
    TRITONBACKEND_ModelInstance& instance = *pointer_from<TRITONBACKEND_ModelInstance>(number);
    std::vector<FlightHandle> flights;
    for_each(tags, [&](PyObject* tag) {
      if (FlightHandle flight = flight_of(instance, unsigned_from(tag))) {
        flights.push_back(std::move(flight));
      }
    });
    instance.outbox->let_be_late(flights);
    return told_list(instance.outbox->collect()).release();
  });
}

PyObject* instance_wait(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject* number;
    unsigned int milliseconds;
    if (!PyArg_ParseTuple(arguments, "OI", &number, &milliseconds)) {
      return nullptr;
    }
    TRITONBACKEND_ModelInstance& instance = *pointer_from<TRITONBACKEND_ModelInstance>(number);
    std::vector<Told> told;
    {
      const Released released;
      told = instance.outbox->wait(milliseconds);
    }
    release_spent(instance);
    return told_list(told).release();
  });
}

PyObject* instance_until_left(PyObject*, PyObject* number)
{
  return python_guarded([&] {
    const std::shared_ptr<Outbox> outbox = pointer_from<TRITONBACKEND_ModelInstance>(number)->outbox;
    {
      const Released released;
      outbox->until_left();
    }
    return none();
  });
}

PyObject* instance_stop_waiting(PyObject*, PyObject* number)
{
  return python_guarded([&] {
    pointer_from<TRITONBACKEND_ModelInstance>(number)->outbox->close();
    return none();
  });
}

PyObject* instance_cancel(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *number, *tag;
    if (!PyArg_ParseTuple(arguments, "OO", &number, &tag)) {
      return nullptr;
    }
    TRITONBACKEND_ModelInstance& instance = *pointer_from<TRITONBACKEND_ModelInstance>(number);
    if (const FlightHandle flight = flight_of(instance, unsigned_from(tag))) {
      flight->cancelled = true;
    }
    return none();
  });
}

}  // namespace despina
