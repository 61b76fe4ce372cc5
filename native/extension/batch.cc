// Batches for backend libraries, a call for each: requests in, and what is told of them out.

#include "extension/batch.h"

#include <algorithm>
#include <cstring>

namespace despina {

namespace {

constexpr Py_ssize_t kCopiedInput = 16 * 1024;

auto& met_by = *new std::unordered_map<const TRITONBACKEND_ModelInstance*, Met>;  // for good, as Python's objects are

// The names of Python's attributes.
PyObject* attribute(PyObject*& known, const char* name)
{
  if (known == nullptr) {
    known = Ref(PyUnicode_InternFromString(name)).release();
  }
  return known;
}

Ref wire_of(PyObject* tensor)
{
  static PyObject *wire, *memory;
  Ref bytes(PyObject_GetAttr(tensor, attribute(wire, "wire")));
  if (bytes.get() != Py_None) {
    return bytes;
  }
  return Ref(PyObject_CallMethodObjArgs(tensor, attribute(memory, "memory"), nullptr));
}

// Gives an input the buffer's bytes: small views, which may be of something large, are copied, all else is held.
void hold(TRITONBACKEND_Input& input, Ref buffer)
{
  if (PyBytes_CheckExact(buffer.get())) {
    input.base = PyBytes_AsString(buffer.get());
    input.byte_size = static_cast<uint64_t>(PyBytes_Size(buffer.get()));
    input.owner = owner_of_bytes(buffer.release());
    return;
  }
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

void fill_input(TRITONBACKEND_Input& input, Met& met, PyObject* name, PyObject* tensor, PyObject* reshape)
{
  static PyObject *datatype, *shape;
  const Ref type(PyObject_GetAttr(tensor, attribute(datatype, "datatype")));
  const Ref dims(PyObject_GetAttr(tensor, attribute(shape, "shape")));
  input.tensor = met.inputs.of(name, type.get(), dims.get(), reshape);
  hold(input, wire_of(tensor));
}

NamesHandle outputs_from(Met& met, PyObject* names)
{
  if (names == met.names) {
    return met.outputs;
  }
  auto made = std::make_shared<std::vector<std::string>>();
  for_each(names, [&](PyObject* name) { made->push_back(text_from(name)); });
  if (PyTuple_CheckExact(names)) {  // which stays as it is
    Py_XDECREF(met.names);
    met.names = borrowed(names).release();
    met.outputs = made;
  }
  return made;
}

// Of (id, inputs, outputs, parameters, timeout, correlation id, start, end).
void fill_request(TRITONBACKEND_Request& request, Met& met, PyObject* item, PyObject* reshape)
{
  PyObject *id, *inputs, *outputs, *parameters, *timeout, *correlation, *start, *end;
  if (!PyArg_UnpackTuple(item, "request", 8, 8, &id, &inputs, &outputs, &parameters, &timeout, &correlation, &start,
                         &end)) {
    throw PythonError{};
  }
  request.id = text_from(id);
  request.flags = (truth_from(start) ? TRITONSERVER_REQUEST_FLAG_SEQUENCE_START : 0) |
                  (truth_from(end) ? TRITONSERVER_REQUEST_FLAG_SEQUENCE_END : 0);
  if (PyUnicode_Check(correlation)) {
    request.correlation_text = text_from(correlation);
  } else {
    request.correlation_id = unsigned_from(correlation);
  }
  request.timeout_us = unsigned_from(timeout);
  PyObject *name, *tensor;
  Py_ssize_t place = 0;
  while (PyDict_Next(inputs, &place, &name, &tensor)) {
    request.inputs.emplace_back();
    fill_input(request.inputs.back(), met, name, tensor, reshape);
  }
  request.outputs = outputs_from(met, outputs);
  request.parameters = parameters_from(parameters);
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
std::unique_ptr<TRITONBACKEND_Request> request_from(
    TRITONBACKEND_ModelInstance& instance, Met& met, uint64_t tag, PyObject* item, PyObject* reshape)
{
  const auto flight = std::make_shared<Flight>();
  flight->tag = tag;
  flight->outbox = instance.outbox;
  flight->model = instance.model;
  flight->decoupled = instance.model->decoupled;
  auto request = std::make_unique<TRITONBACKEND_Request>(flight);
  try {
    fill_request(*request, met, item, reshape);
  } catch (const PythonError&) {
    turn_away(*flight);
    return nullptr;
  }
  return request;
}

Ref bytes_object(const BackendOutput& output)
{
  return Ref(
      PyBytes_FromStringAndSize(static_cast<const char*>(output.base), static_cast<Py_ssize_t>(output.byte_size)));
}

Ref tensor_object(const BackendOutput& output)
{
  return tuple_of(
      text_object(output.tensor.name), datatype_object(output.tensor.datatype), shape_object(output.tensor.shape),
      bytes_object(output));
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

// Whether nothing is said of a request but outputs, and those have the sizes of others of their datatypes and shapes.
bool has_form(const Told& told)
{
  if (told.kind != Told::kAnswer || told.response == nullptr || told.response->failed ||
      !told.response->parameters.empty()) {
    return false;
  }
  const auto& outputs = told.response->outputs;
  return std::none_of(outputs.begin(), outputs.end(), [](const TRITONBACKEND_Output& output) {
    return output.tensor.datatype == TRITONSERVER_TYPE_BYTES;
  });
}

PyObject* form_by_python(const TRITONBACKEND_Response& response, PyObject* make)
{
  Ref outputs(PyTuple_New(static_cast<Py_ssize_t>(response.outputs.size())));
  Py_ssize_t place = 0;
  for (const TRITONBACKEND_Output& output : response.outputs) {
    Ref described = tuple_of(
        text_object(output.tensor.name), datatype_object(output.tensor.datatype), shape_object(output.tensor.shape),
        unsigned_object(output.byte_size));
    PyTuple_SetItem(outputs.get(), place++, described.release());
  }
  return Ref(PyObject_CallFunctionObjArgs(make, outputs.get(), nullptr)).release();
}

// (what stands for the form, bytes of the outputs); None for an answer that is to be told whole.
Ref answer_by_form(Met& met, const Told& told, PyObject* make)
{
  if (!has_form(told)) {
    return borrowed(Py_None);
  }
  met.key.clear();
  for (const TRITONBACKEND_Output& output : told.response->outputs) {
    add_output(met.key, output);
  }
  PyObject* form = met.answers.of(met.key, [&] { return form_by_python(*told.response, make); });
  if (form == nullptr) {
    return borrowed(Py_None);
  }
  Ref wires(PyTuple_New(static_cast<Py_ssize_t>(told.response->outputs.size())));
  Py_ssize_t place = 0;
  for (const TRITONBACKEND_Output& output : told.response->outputs) {
    PyTuple_SetItem(wires.get(), place++, bytes_object(output).release());
  }
  return tuple_of(borrowed(form), std::move(wires));
}

// (answers, told): of each request of the batch its answer or None, and what is told whole.
Ref outcome_of_batch(Met& met, const std::vector<Told>& told, uint64_t first, Py_ssize_t count, PyObject* make)
{
  Ref answers(PyList_New(count));
  for (Py_ssize_t place = 0; place < count; ++place) {
    PyList_SetItem(answers.get(), place, borrowed(Py_None).release());
  }
  Ref whole(PyList_New(0));
  for (const Told& one : told) {
    const uint64_t place = one.tag - first;  // one that is older has a place beyond all
    if (place < static_cast<uint64_t>(count)) {
      Ref answer = answer_by_form(met, one, make);
      if (answer.get() != Py_None) {
        PyList_SetItem(answers.get(), static_cast<Py_ssize_t>(place), answer.release());
        continue;
      }
    }
    const Ref item = told_object(one);
    if (PyList_Append(whole.get(), item.get()) < 0) {
      throw PythonError{};
    }
  }
  return tuple_of(std::move(answers), std::move(whole));
}

void release_owners(const std::vector<void*>& owners)
{
  for (void* owner : owners) {
    release_owner(owner);
  }
}

// Nothing of Python's happens under the instance's lock: another thread may have the interpreter, and wait for the lock.

void note_flights(
    TRITONBACKEND_ModelInstance& instance, const std::vector<std::unique_ptr<TRITONBACKEND_Request>>& requests)
{
  std::lock_guard<std::mutex> lock(instance.mutex);
  for (const auto& request : requests) {
    instance.flights.emplace_back(request->flight->tag, request->flight);
  }
}

FlightHandle flight_of(TRITONBACKEND_ModelInstance& instance, uint64_t tag)
{
  std::lock_guard<std::mutex> lock(instance.mutex);
  const auto found = std::lower_bound(
      instance.flights.begin(), instance.flights.end(), tag,
      [](const auto& flight, uint64_t wanted) { return flight.first < wanted; });
  return found == instance.flights.end() || found->first != tag ? nullptr : found->second.lock();
}

// What the library has said of the last execution. Forgets the requests that are over.
std::pair<uint64_t, uint64_t> computed_ns(TRITONBACKEND_ModelInstance& instance)
{
  std::lock_guard<std::mutex> lock(instance.mutex);
  auto& flights = instance.flights;
  flights.erase(
      std::remove_if(flights.begin(), flights.end(), [](const auto& flight) { return flight.second.expired(); }),
      flights.end());
  return {instance.compute_start_ns, instance.compute_end_ns};
}

}  // namespace

void forget(const TRITONBACKEND_ModelInstance* instance)
{
  met_by.erase(instance);
}

// ((code, text), compute start, compute end, answers, told)
PyObject* instance_execute(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *number, *given, *reshape, *make;
    unsigned long long first;
    if (!PyArg_ParseTuple(arguments, "OKOOO", &number, &first, &given, &reshape, &make)) {
      return nullptr;
    }
    TRITONBACKEND_ModelInstance& instance = *pointer_from<TRITONBACKEND_ModelInstance>(number);
    Met& met = met_by[&instance];
    const Py_ssize_t count = PySequence_Size(given);
    std::vector<std::unique_ptr<TRITONBACKEND_Request>> requests;
    requests.reserve(static_cast<size_t>(std::max<Py_ssize_t>(count, 0)));
    uint64_t tag = first;
    for_each(given, [&](PyObject* item) {
      if (auto request = request_from(instance, met, tag++, item, reshape)) {
        requests.push_back(std::move(request));
      }
    });
    note_flights(instance, requests);
    Ref outcome = outcome_of(
        [&] { return requests.empty() ? nullptr : despina_bridge()->execute(instance, std::move(requests)); });
    std::vector<void*> spent;
    const std::vector<Told> told = instance.outbox->collect(spent);
    release_owners(spent);
    Ref results = outcome_of_batch(met, told, first, count, make);
    const auto [started_ns, ended_ns] = computed_ns(instance);
    return tuple_of(
               std::move(outcome), unsigned_object(started_ns), unsigned_object(ended_ns),
               item_of(results.get(), 0), item_of(results.get(), 1))
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
    release_owners(instance.outbox->spent());
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
