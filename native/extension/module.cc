// The extension module: one for every Python from 3.11 on.

#include "extension/objects.h"

namespace despina {

PyObject* attach(PyObject*, PyObject* function);
PyObject* server_new(PyObject*, PyObject*);
PyObject* server_delete(PyObject*, PyObject* server);
PyObject* queue_fd(PyObject*, PyObject* server);
PyObject* pop(PyObject*, PyObject* arguments);
PyObject* take(PyObject*, PyObject* request);
PyObject* answer(PyObject*, PyObject* arguments);
PyObject* answer_known(PyObject*, PyObject* arguments);
PyObject* fail(PyObject*, PyObject* arguments);
PyObject* publish(PyObject*, PyObject* arguments);
PyObject* close_queue(PyObject*, PyObject* server);
PyObject* sweep(PyObject*, PyObject* server);
PyObject* metrics_page(PyObject*, PyObject*);
PyObject* log_levels(PyObject*, PyObject* levels);
PyObject* agent_open(PyObject*, PyObject*);
PyObject* agent_model_open(PyObject*, PyObject*);
PyObject* agent_act(PyObject*, PyObject*);
PyObject* agent_model_close(PyObject*, PyObject*);
PyObject* cache_open(PyObject*, PyObject*);
PyObject* cache_insert(PyObject*, PyObject*);
PyObject* cache_lookup(PyObject*, PyObject*);
PyObject* cache_close(PyObject*, PyObject*);
PyObject* model_open(PyObject*, PyObject*);
PyObject* model_facts(PyObject*, PyObject*);
PyObject* model_settle(PyObject*, PyObject*);
PyObject* model_close(PyObject*, PyObject*);
PyObject* instance_open(PyObject*, PyObject*);
PyObject* instance_close(PyObject*, PyObject*);
PyObject* instance_ready(PyObject*, PyObject*);
PyObject* instance_execute(PyObject*, PyObject*);
PyObject* instance_let_be_late(PyObject*, PyObject*);
PyObject* instance_wait(PyObject*, PyObject*);
PyObject* instance_until_left(PyObject*, PyObject*);
PyObject* instance_stop_waiting(PyObject*, PyObject*);
PyObject* instance_cancel(PyObject*, PyObject*);

namespace {

PyMethodDef methods[] = {
    {"attach", attach, METH_O, "What the library calls Python by: (object, operation, arguments) -> (code, bytes)."},
    {"server_new", server_new, METH_NOARGS, "The address of a new server object, which nobody serves yet."},
    {"server_delete", server_delete, METH_O, "Lets go of one that `server_new` has made: (code, text)."},
    {"queue_fd", queue_fd, METH_O, "Readable while something waits to be popped."},
    {"pop", pop, METH_VARARGS, "(server, most, make): what waits, oldest first; see the port."},
    {"take", take, METH_O, "A request as `pop` gives it."},
    {"answer", answer, METH_VARARGS, "Delivers a response, or only the end of a request."},
    {"answer_known", answer_known, METH_VARARGS, "Delivers responses at one time. The addresses of those that cannot be."},
    {"fail", fail, METH_VARARGS, "Delivers an error."},
    {"publish", publish, METH_VARARGS, "(server, models): which models are ready from now on."},
    {"close_queue", close_queue, METH_O, "Nothing is taken any more."},
    {"sweep", sweep, METH_O, "Lets go of the outputs that have been delivered."},
    {"metrics_page", metrics_page, METH_NOARGS, "The metric families made through the C API, as text."},
    {"log_levels", log_levels, METH_O, "A bit for each level that is written now."},
    {"model_open", model_open, METH_VARARGS, "Loads the library if need be and initializes a model: (address or None, (code, text))."},
    {"model_facts", model_facts, METH_O, "(configuration, preferred kind) as the backend has left them, and whether it says if instances are ready."},
    {"model_settle", model_settle, METH_VARARGS, "What has become of the configuration: (model, JSON, decoupled, outputs, states)."},
    {"model_close", model_close, METH_O, "Finalizes a model."},
    {"instance_open", instance_open, METH_VARARGS, "As model_open, of one instance."},
    {"instance_close", instance_close, METH_O, "Finalizes an instance."},
    {"instance_ready", instance_ready, METH_O, "Asks the backend: (code, text)."},
    {"instance_execute", instance_execute, METH_VARARGS, "Executes a batch: ((code, text), compute start, compute end, told)."},
    {"instance_let_be_late", instance_let_be_late, METH_VARARGS, "What was told of those until now; what follows is waited for."},
    {"instance_wait", instance_wait, METH_VARARGS, "(instance, milliseconds): what is told late, or of streams."},
    {"instance_until_left", instance_until_left, METH_O, "Waits until the library has let go of all requests."},
    {"instance_stop_waiting", instance_stop_waiting, METH_O, "Ends all waiting."},
    {"instance_cancel", instance_cancel, METH_VARARGS, "(instance, tag): nobody waits for that request any more."},
    {"agent_open", agent_open, METH_O, "Loads and initializes a repository agent: (address or None, (code, text))."},
    {"agent_model_open", agent_model_open, METH_VARARGS, "(agent, location, configuration, parameters): as agent_open, of one load of a model."},
    {"agent_act", agent_act, METH_VARARGS, "(agent, model, location, action): ((code, text), where the files are now or nothing)."},
    {"agent_model_close", agent_model_close, METH_VARARGS, "Ends one load of a model."},
    {"cache_open", cache_open, METH_VARARGS, "(path, configuration): as agent_open, of a response cache."},
    {"cache_insert", cache_insert, METH_VARARGS, "(cache, key, entry): ((code, text), whether it is new)."},
    {"cache_lookup", cache_lookup, METH_VARARGS, "(cache, key): ((code, text), the entry or None)."},
    {"cache_close", cache_close, METH_O, "Finalizes it."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The library's side that knows Python.", -1, methods, nullptr, nullptr, nullptr,
    nullptr,
};

}  // namespace
}  // namespace despina

PyMODINIT_FUNC PyInit__native()
{
  return PyModule_Create(&despina::definition);
}
