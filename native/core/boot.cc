#include "core/bridge.h"
#include "core/log.h"

#include <cstdlib>
#include <cwchar>
#include <dlfcn.h>
#include <fstream>
#include <limits.h>
#include <mutex>
#include <sstream>
#include <sys/stat.h>

// Starts CPython in a program that has none. The library is not linked with it: the functions are looked up here.

namespace despina {

namespace {

std::mutex boot_mutex;

struct Python {
  std::string program;       // <environment>/bin/python: where the interpreter finds its packages by
  std::string library;       // libpython
};

[[noreturn]] void unavailable(const std::string& text)
{
  refuse(TRITONSERVER_ERROR_UNAVAILABLE, text);
}

bool exists(const std::string& path)
{
  struct stat facts;
  return stat(path.c_str(), &facts) == 0;
}

std::string parent(const std::string& path)
{
  const size_t slash = path.rfind('/');
  return slash == std::string::npos || slash == 0 ? "" : path.substr(0, slash);
}

std::string own_path()
{
  Dl_info facts;
  char real[PATH_MAX];
  if (dladdr(reinterpret_cast<void*>(&despina_bridge), &facts) == 0 || realpath(facts.dli_fname, real) == nullptr) {
    unavailable("cannot find the file that this library is");
  }
  return real;
}

std::string value_in(const std::string& file, const std::string& key)
{
  std::ifstream lines(file);
  std::string line;
  while (std::getline(lines, line)) {
    const size_t equals = line.find('=');
    if (equals != std::string::npos && line.substr(0, line.find_last_not_of(" ", equals - 1) + 1) == key) {
      const size_t first = line.find_first_not_of(" ", equals + 1);
      return first == std::string::npos ? "" : line.substr(first);
    }
  }
  return "";
}

// What lies beside the library where it was built for one environment, else what follows from its own place in one:
// <environment>/lib/python3.11/site-packages/despina/...
Python python_of(const std::string& library)
{
  const std::string beside = parent(library) + "/python.txt";
  Python found{value_in(beside, "program"), value_in(beside, "library")};
  for (std::string at = parent(library); found.program.empty() && !at.empty(); at = parent(at)) {
    const std::string name = at.substr(at.rfind('/') + 1);
    if (name.rfind("python3.", 0) == 0 && at.size() > name.size() + 5) {
      const std::string environment = parent(parent(at));
      const std::string home = value_in(environment + "/pyvenv.cfg", "home");
      found.program = environment + "/bin/python";
      const std::string base = home.empty() ? environment : parent(home);
      const std::string file = "lib" + name + ".so.1.0";
      found.library = exists(base + "/lib/" + file) ? base + "/lib/" + file : file;
    }
  }
  const char* program = std::getenv("TRITON_PYTHON");
  const char* shared = std::getenv("TRITON_LIBPYTHON");
  found.program = program == nullptr ? found.program : program;
  found.library = shared == nullptr ? found.library : shared;
  if (found.program.empty() || found.library.empty()) {
    unavailable("cannot tell which Python " + library + " belongs to: set TRITON_PYTHON and TRITON_LIBPYTHON");
  }
  return found;
}

template <class Function>
Function symbol(void* handle, const char* name)
{
  void* found = dlsym(handle, name);
  if (found == nullptr) {
    unavailable(std::string("the Python library has no function ") + name);
  }
  return reinterpret_cast<Function>(found);
}

void* load_python(const std::string& file)
{
  // For all to see: extension modules look for its symbols there.
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) {
    unavailable(std::string("cannot load the Python library: ") + dlerror());
  }
  return handle;
}

void check_version(void* handle)
{
  const char* version = symbol<const char* (*)()>(handle, "Py_GetVersion")();
  int major = 0, minor = 0;
  if (std::sscanf(version, "%d.%d", &major, &minor) != 2 || major != 3 || minor < 11) {
    unavailable(std::string("Python 3.11 or newer is needed, this process has ") + version);
  }
}

void start_interpreter(void* handle, const std::string& program)
{
  static wchar_t name[PATH_MAX];
  if (std::mbstowcs(name, program.c_str(), PATH_MAX - 1) == static_cast<size_t>(-1)) {
    unavailable("cannot read the path " + program);
  }
  symbol<void (*)(const wchar_t*)>(handle, "Py_SetProgramName")(name);
  symbol<void (*)(int)>(handle, "Py_InitializeEx")(0);  // 0: the application's signal handlers stay
}

int import_engine(void* handle, bool owned)
{
  const std::string code =
      "from despina.frontends.capi import boot as _despina_boot\n_despina_boot.attach(r'''" + parent(own_path()) +
      "''', " + (owned ? "True" : "False") + ")\ndel _despina_boot\n";
  return symbol<int (*)(const char*)>(handle, "PyRun_SimpleString")(code.c_str());
}

}  // namespace

void boot()
{
  std::lock_guard<std::mutex> lock(boot_mutex);
  if (has_hooks()) {
    return;
  }
  void* handle = RTLD_DEFAULT;
  int failed;
  if (dlsym(handle, "Py_IsInitialized") == nullptr || symbol<int (*)()>(handle, "Py_IsInitialized")() == 0) {
    const Python python = python_of(own_path());
    if (dlsym(handle, "Py_IsInitialized") == nullptr) {
      handle = load_python(python.library);
    }
    check_version(handle);
    start_interpreter(handle, python.program);
    failed = import_engine(handle, true);
    symbol<void* (*)()>(handle, "PyEval_SaveThread")();
  } else {
    check_version(handle);
    const int state = symbol<int (*)()>(handle, "PyGILState_Ensure")();
    failed = import_engine(handle, false);
    symbol<void (*)(int)>(handle, "PyGILState_Release")(state);
  }
  if (failed != 0 || !has_hooks()) {
    unavailable("the engine cannot be imported; what Python says of it is on stderr");
  }
}

}  // namespace despina
