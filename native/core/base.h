// What every part of the library starts with: the headers, errors, and the edge that no exception crosses.
#pragma once

#include "triton/core/tritonserver.h"
#include "triton/core/tritonbackend.h"
#include "triton/core/tritoncache.h"
#include "triton/core/tritonrepoagent.h"

#include <exception>
#include <new>
#include <string>
#include <utility>

struct TRITONSERVER_Error {
  TRITONSERVER_Error_Code code;
  std::string text;
};

namespace despina {

using Error = TRITONSERVER_Error;

// Thrown inside the library; `guarded` makes an error of it.
struct Failure {
  TRITONSERVER_Error_Code code;
  std::string text;
};

inline TRITONSERVER_Error no_memory{TRITONSERVER_ERROR_INTERNAL, "out of memory"};

inline Error* make_error(TRITONSERVER_Error_Code code, std::string text) noexcept
{
  try {
    return new Error{code, std::move(text)};
  } catch (...) {
    return &no_memory;
  }
}

[[noreturn]] inline void refuse(TRITONSERVER_Error_Code code, std::string text)
{
  throw Failure{code, std::move(text)};
}

[[noreturn]] inline void invalid(std::string text)
{
  refuse(TRITONSERVER_ERROR_INVALID_ARG, std::move(text));
}

// Takes an error that somebody else has returned, and raises it.
inline void raise(Error* error)
{
  if (error != nullptr) {
    Failure failure{error->code, error->text};
    TRITONSERVER_ErrorDelete(error);
    throw failure;
  }
}

// The body of a function of the API. Whatever happens inside becomes an error.
template <class Body>
Error* guarded(Body&& body) noexcept
{
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return make_error(failure.code, failure.text);
  } catch (const std::bad_alloc&) {
    return &no_memory;
  } catch (const std::exception& problem) {
    return make_error(TRITONSERVER_ERROR_INTERNAL, problem.what());
  } catch (...) {
    return make_error(TRITONSERVER_ERROR_INTERNAL, "unexpected exception");
  }
}

// An object that the caller hands over, which must be there.
template <class Object>
Object& need(Object* object, const char* what)
{
  if (object == nullptr) {
    invalid(std::string("unexpected nullptr for ") + what);
  }
  return *object;
}

inline std::string text_of(const char* text)
{
  return text == nullptr ? std::string() : std::string(text);
}

}  // namespace despina
