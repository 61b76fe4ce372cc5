// What Python does for servers of applications: takes their requests, answers them, publishes models.

#include "extension/forms.h"

#include <cstdlib>
#include <cstring>

namespace despina {

namespace {

PyObject* dispatch = nullptr;
auto& forms = *new std::unordered_map<const TRITONSERVER_Server*, Forms>;  // for good, as Python's objects are

constexpr int kKnown = 4;    // besides the kinds of events

void reply_with(Reply* reply, int code, const char* text, size_t size)
{
  reply->code = code;
  reply->text = static_cast<char*>(std::malloc(size + 1));
  if (reply->text != nullptr) {
    std::memcpy(reply->text, text, size);
    reply->text[size] = 0;
    reply->size = size;
  }
}

// Takes the interpreter, calls `dispatch(object, operation, arguments)`, which gives (code, bytes).
void call_python(const void* object, const char* operation, const char* arguments, size_t size, Reply* reply)
{
  const PyGILState_STATE state = PyGILState_Ensure();
  PyObject* answer = PyObject_CallFunction(
      dispatch, "Nsy#", PyLong_FromVoidPtr(const_cast<void*>(object)), operation, arguments,
      static_cast<Py_ssize_t>(size));
  int code = 0;
  const char* text = nullptr;
  Py_ssize_t length = 0;
  if (answer != nullptr && PyArg_ParseTuple(answer, "iy#", &code, &text, &length)) {
    reply_with(reply, code, text, static_cast<size_t>(length));
  } else {
    PyErr_Print();
    const char broken[] = "the engine failed to answer; what Python says of it is on stderr";
    reply_with(reply, TRITONSERVER_ERROR_INTERNAL, broken, sizeof broken - 1);
  }
  Py_XDECREF(answer);
  PyGILState_Release(state);
}

Ref inputs_object(const TRITONSERVER_InferenceRequest& request)
{
  Ref inputs(PyTuple_New(static_cast<Py_ssize_t>(request.inputs.size())));
  Py_ssize_t place = 0;
  for (const Input& input : request.inputs) {
    PyTuple_SetItem(
        inputs.get(), place++,
        tuple_of(
            text_object(input.tensor.name), datatype_object(input.tensor.datatype), shape_object(input.tensor.shape),
            joined(input), Ref(PyBool_FromLong(input.raw)))
            .release());
  }
  return inputs;
}

// (ticket, request, model, version, id, inputs, outputs, parameters, flags, correlation id, priority, timeout, trace
// level)
Ref request_object(const TRITONSERVER_InferenceRequest& request)
{
  return tuple_of(
      unsigned_object(request.ticket), pointer_object(&request), text_object(request.model_name),
      number_object(request.model_version), text_object(request.id), inputs_object(request),
      texts_object(request.outputs),
      parameters_object(request.parameters), unsigned_object(request.flags),
      request.correlation_text.empty() ? unsigned_object(request.correlation_id)
                                       : text_object(request.correlation_text),
      unsigned_object(request.priority), unsigned_object(request.timeout_us),
      unsigned_object(request.trace == nullptr ? 0 : request.trace->level));
}

void append(PyObject* list, const Ref& item)
{
  if (PyList_Append(list, item.get()) < 0) {
    throw PythonError{};
  }
}

void release_spent(TRITONSERVER_Server& server)
{
  for (void* owner : despina_bridge()->spent_owners(server)) {
    release_owner(owner);
  }
}

TraceReport report_from(PyObject* item)
{
  TraceReport report;
  report.kind = static_cast<TraceReport::Kind>(number_from(item_of(item, 0).get()));
  if (report.kind == TraceReport::kMoment) {
    report.activity = static_cast<TRITONSERVER_InferenceTraceActivity>(number_from(item_of(item, 1).get()));
    report.ns = static_cast<uint64_t>(number_from(item_of(item, 2).get()));
  } else if (report.kind == TraceReport::kTensor) {
    report.activity = static_cast<TRITONSERVER_InferenceTraceActivity>(number_from(item_of(item, 1).get()));
    report.tensor = {
        text_from(item_of(item, 2).get()), datatype_from(item_of(item, 3).get()),
        shape_from(item_of(item, 4).get())};
    const Ref bytes = item_of(item, 5);
    char* base = nullptr;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(bytes.get(), &base, &size) < 0) {
      throw PythonError{};
    }
    report.bytes.assign(base, static_cast<size_t>(size));
  } else if (report.kind == TraceReport::kChild) {
    report.tensor.name = text_from(item_of(item, 1).get());
    report.version = number_from(item_of(item, 2).get());
    report.bytes = text_from(item_of(item, 3).get());
  }
  return report;
}

std::unique_ptr<Answer> answer_for(PyObject* request, PyObject* ticket, int final, int credit, PyObject* reports)
{
  auto answer = std::make_unique<Answer>();
  answer->request = pointer_from<TRITONSERVER_InferenceRequest>(request);
  answer->ticket = static_cast<uint64_t>(number_from(ticket));
  answer->final = final != 0;
  answer->is_credit = credit != 0;
  if (reports != Py_None) {
    for_each(reports, [&](PyObject* item) { answer->trace.push_back(report_from(item)); });
  }
  return answer;
}

void deliver(PyObject* server, std::unique_ptr<Answer> answer)
{
  std::vector<std::unique_ptr<Answer>> answers;
  answers.push_back(std::move(answer));
  despina_bridge()->answer(*pointer_from<TRITONSERVER_Server>(server), std::move(answers));
}

}  // namespace

PyObject* attach(PyObject*, PyObject* function)
{
  Py_INCREF(function);
  PyObject* before = dispatch;
  dispatch = function;
  Py_XDECREF(before);
  Hooks hooks;
  hooks.call = &call_python;
  despina_bridge()->set_hooks(hooks);
  return none();
}

PyObject* server_new(PyObject*, PyObject*)
{
  return python_guarded([&] {
    TRITONSERVER_Server* server = nullptr;
    if (Error* error = despina_bridge()->new_server(&server)) {
      PyErr_SetString(PyExc_RuntimeError, error->text.c_str());
      TRITONSERVER_ErrorDelete(error);
      throw PythonError{};
    }
    return pointer_object(server).release();
  });
}

PyObject* server_delete(PyObject*, PyObject* server)
{
  return python_guarded([&] {
    TRITONSERVER_Server* gone = pointer_from<TRITONSERVER_Server>(server);
    return outcome_of([&] { return TRITONSERVER_ServerDelete(gone); }).release();
  });
}

PyObject* queue_fd(PyObject*, PyObject* server)
{
  return python_guarded([&] {
    return number_object(pointer_from<TRITONSERVER_Server>(server)->submissions.fd()).release();
  });
}

PyObject* pop(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *number, *make;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(arguments, "OnO", &number, &most, &make)) {
      return nullptr;
    }
    TRITONSERVER_Server& server = *pointer_from<TRITONSERVER_Server>(number);
    release_spent(server);
    Forms& known = forms[&server];
    Ref list(PyList_New(0));
    PyObject* form = nullptr;
    PyObject* group = nullptr;  // of requests of that form, in the list
    for (const Event& event : despina_bridge()->pop(server, static_cast<size_t>(most))) {
      PyObject* found = event.kind == Event::kInfer ? known.of(*event.request, make) : nullptr;
      if (found == nullptr) {
        form = nullptr;
        append(list.get(), tuple_of(
            number_object(event.kind), event.kind == Event::kInfer ? request_object(*event.request)
                                                                    : unsigned_object(event.ticket)));
        continue;
      }
      if (found != form) {
        form = found;
        Ref requests(PyList_New(0));
        group = requests.get();
        append(list.get(), tuple_of(number_object(kKnown), tuple_of(borrowed(form), std::move(requests))));
      }
      append(group, known_object(*event.request));
    }
    return list.release();
  });
}

PyObject* take(PyObject*, PyObject* request)
{
  return python_guarded(
      [&] { return request_object(*pointer_from<TRITONSERVER_InferenceRequest>(request)).release(); });
}

PyObject* answer(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *server, *request, *ticket, *model_name, *model_version, *outputs, *parameters, *reports;
    int final, credit;
    if (!PyArg_ParseTuple(
            arguments, "OOOppOOOOO", &server, &request, &ticket, &final, &credit, &model_name, &model_version,
            &outputs, &parameters, &reports)) {
      return nullptr;
    }
    std::unique_ptr<Answer> made = answer_for(request, ticket, final, credit, reports);
    if (outputs != Py_None) {
      made->has_response = true;
      made->model_name = text_from(model_name);
      made->model_version = version_from(model_version);
      made->parameters = parameters_from(parameters);
      for_each(outputs, [&](PyObject* item) {
        made->outputs.push_back(output_from(
            item_of(item, 0).get(), item_of(item, 1).get(), item_of(item, 2).get(), item_of(item, 3).get()));
      });
    }
    deliver(server, std::move(made));
    return none();
  });
}

PyObject* answer_known(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *server, *given;
    if (!PyArg_ParseTuple(arguments, "OO", &server, &given)) {
      return nullptr;
    }
    std::vector<std::unique_ptr<Answer>> answers;
    answers.reserve(static_cast<size_t>(PyList_Size(given)));
    Ref broken(PyList_New(0));
    for_each(given, [&](PyObject* item) {
      try {
        answers.push_back(known_answer(item));
      } catch (const PythonError&) {
        PyErr_Print();
        append(broken.get(), item_of(item, 0));
      }
    });
    despina_bridge()->answer(*pointer_from<TRITONSERVER_Server>(server), std::move(answers));
    return broken.release();
  });
}

PyObject* fail(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *server, *request, *ticket, *text, *reports;
    int final, credit, code;
    if (!PyArg_ParseTuple(
            arguments, "OOOppiOO", &server, &request, &ticket, &final, &credit, &code, &text, &reports)) {
      return nullptr;
    }
    std::unique_ptr<Answer> made = answer_for(request, ticket, final, credit, reports);
    made->has_response = true;
    made->failed = true;
    made->code = static_cast<TRITONSERVER_Error_Code>(code);
    made->text = text_from(text);
    deliver(server, std::move(made));
    return none();
  });
}

namespace {

InputRule input_rule_from(PyObject* item)
{
  InputRule rule;
  rule.tensor = {
      text_from(item_of(item, 0).get()), datatype_from(item_of(item, 1).get()), shape_from(item_of(item, 2).get())};
  rule.optional = truth_from(item_of(item, 3).get());
  rule.by_rows = truth_from(item_of(item, 4).get());
  return rule;
}

ModelHandle model_from(PyObject* item)
{
  auto model = std::make_shared<Model>();
  model->name = text_from(item_of(item, 0).get());
  model->version = number_from(item_of(item, 1).get());
  model->latest = truth_from(item_of(item, 2).get());
  model->remembers = truth_from(item_of(item, 3).get());
  model->decoupled = truth_from(item_of(item, 4).get());
  model->max_batch_size = number_from(item_of(item, 5).get());
  for_each(item_of(item, 6).get(), [&](PyObject* input) { model->inputs.push_back(input_rule_from(input)); });
  for_each(item_of(item, 7).get(), [&](PyObject* output) {
    OutputRule rule{text_from(item_of(output, 0).get()), {}};
    for_each(item_of(output, 1).get(), [&](PyObject* label) { rule.labels.push_back(text_from(label)); });
    model->outputs.push_back(std::move(rule));
  });
  return model;
}

}  // namespace

PyObject* publish(PyObject*, PyObject* arguments)
{
  return python_guarded([&]() -> PyObject* {
    PyObject *server, *given;
    if (!PyArg_ParseTuple(arguments, "OO", &server, &given)) {
      return nullptr;
    }
    std::vector<ModelHandle> models;
    for_each(given, [&](PyObject* item) { models.push_back(model_from(item)); });
    forms[pointer_from<TRITONSERVER_Server>(server)].clear();
    despina_bridge()->publish(*pointer_from<TRITONSERVER_Server>(server), std::move(models));
    return none();
  });
}

PyObject* close_queue(PyObject*, PyObject* server)
{
  return python_guarded([&] {
    despina_bridge()->close(*pointer_from<TRITONSERVER_Server>(server));
    return none();
  });
}

PyObject* sweep(PyObject*, PyObject* server)
{
  return python_guarded([&] {
    forms.erase(pointer_from<TRITONSERVER_Server>(server));
    release_spent(*pointer_from<TRITONSERVER_Server>(server));
    return none();
  });
}

PyObject* metrics_page(PyObject*, PyObject*)
{
  return python_guarded([&] { return text_object(despina_bridge()->metrics_text()).release(); });
}

PyObject* log_levels(PyObject*, PyObject* levels)
{
  return python_guarded([&] {
    despina_bridge()->set_log_levels(static_cast<uint32_t>(number_from(levels)));
    return none();
  });
}

}  // namespace despina
