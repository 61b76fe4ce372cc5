// How the examples hand errors on.
#pragma once

#include "triton/core/tritonserver.h"

// Returns the error of a call, if it has one.
#define TRY(call)                               \
  do {                                          \
    if (TRITONSERVER_Error* error_ = (call)) {  \
      return error_;                            \
    }                                           \
  } while (false)

// Returns an error, TRITONSERVER_ERROR_<code>, unless the condition holds.
#define REQUIRE(condition, code, text) \
  TRY((condition) ? nullptr : TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_##code, text))
