// What backends share that ask the server: memory for its responses, requests that go when it has done with them, and
// a response handed on.
#pragma once

#include "reading.h"

inline TRITONSERVER_Error* allocate(
    TRITONSERVER_ResponseAllocator*, const char*, size_t size, TRITONSERVER_MemoryType, int64_t, void*, void** buffer,
    void**, TRITONSERVER_MemoryType* type, int64_t* id)
{
  *buffer = new char[size];
  *type = TRITONSERVER_MEMORY_CPU;
  *id = 0;
  return nullptr;
}

inline TRITONSERVER_Error* release(
    TRITONSERVER_ResponseAllocator*, void* buffer, void*, size_t, TRITONSERVER_MemoryType, int64_t)
{
  delete[] static_cast<char*>(buffer);
  return nullptr;
}

inline void on_release(TRITONSERVER_InferenceRequest* request, const uint32_t, void*)
{
  TRITONSERVER_InferenceRequestDelete(request);
}

// The first output, or the error, of another model's answer.
inline TRITONSERVER_Error* pass_on(TRITONSERVER_InferenceResponse* answer, TRITONBACKEND_Response* response)
{
  const char* name;
  TRITONSERVER_DataType datatype;
  const int64_t* shape;
  uint64_t dims;
  const void* base;
  size_t size;
  TRITONSERVER_MemoryType type;
  int64_t id;
  void* userp;
  if (TRITONSERVER_Error* error = TRITONSERVER_InferenceResponseError(answer)) {  // the response's: a copy is sent
    return TRITONSERVER_ErrorNew(TRITONSERVER_ErrorCode(error), TRITONSERVER_ErrorMessage(error));
  }
  TRY(TRITONSERVER_InferenceResponseOutput(
      answer, 0, &name, &datatype, &shape, &dims, &base, &size, &type, &id, &userp));
  return write_output(response, "OUTPUT0", datatype, {shape, shape + dims}, base, size);
}
