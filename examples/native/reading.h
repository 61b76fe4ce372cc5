// What the backends share: inputs are read whole, outputs written, responses sent, parameters found.
#pragma once

#include "checks.h"
#include "triton/core/tritonbackend.h"

#include <chrono>
#include <cstring>
#include <string>
#include <vector>

// One input: its facts and its bytes, which lie in one buffer or in several.
struct Input {
  const char* name;
  TRITONSERVER_DataType datatype;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline TRITONSERVER_Error* read_input(TRITONBACKEND_Request* request, const char* name, Input* input)
{
  TRITONBACKEND_Input* found;
  const int64_t* shape;
  uint32_t dims, buffers;
  uint64_t size;
  TRY(TRITONBACKEND_RequestInput(request, name, &found));
  TRY(TRITONBACKEND_InputProperties(found, &input->name, &input->datatype, &shape, &dims, &size, &buffers));
  input->shape.assign(shape, shape + dims);
  for (uint32_t index = 0; index < buffers; ++index) {
    const void* base;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0;
    TRY(TRITONBACKEND_InputBuffer(found, index, &base, &size, &type, &id));
    input->bytes.append(static_cast<const char*>(base), size);
  }
  return nullptr;
}

inline TRITONSERVER_Error* write_output(
    TRITONBACKEND_Response* response, const char* name, TRITONSERVER_DataType datatype,
    const std::vector<int64_t>& shape, const void* data, uint64_t size)
{
  TRITONBACKEND_Output* output;
  void* buffer;
  TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
  int64_t id = 0;
  TRY(TRITONBACKEND_ResponseOutput(
      response, &output, name, datatype, shape.data(), static_cast<uint32_t>(shape.size())));
  TRY(TRITONBACKEND_OutputBuffer(output, &buffer, size, &type, &id));
  std::memcpy(buffer, data, size);
  return nullptr;
}

// One element of BYTES: its size in 4 bytes, and itself.
inline TRITONSERVER_Error* write_text(
    TRITONBACKEND_Response* response, const char* name, const std::vector<int64_t>& shape, std::string text)
{
  const uint32_t size = static_cast<uint32_t>(text.size());
  text.insert(0, reinterpret_cast<const char*>(&size), sizeof size);
  return write_output(response, name, TRITONSERVER_TYPE_BYTES, shape, text.data(), text.size());
}

// Sends the response, or the error instead, which is gone then.
inline void send(
    TRITONBACKEND_Response* response, TRITONSERVER_Error* error, uint32_t flags = TRITONSERVER_RESPONSE_COMPLETE_FINAL)
{
  TRITONBACKEND_ResponseSend(response, flags, error);
  TRITONSERVER_ErrorDelete(error);
}

// Answers each request of a batch, and releases it: `answer` writes its response. identity.cc has it at length.
template <typename Answer>
TRITONSERVER_Error* answer_each(TRITONBACKEND_Request** requests, uint32_t count, Answer answer)
{
  for (uint32_t index = 0; index < count; ++index) {
    TRITONBACKEND_Response* response;
    TRY(TRITONBACKEND_ResponseNew(&response, requests[index]));
    send(response, answer(requests[index], response));
    TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL);
  }
  return nullptr;
}

// Callers may want some outputs only; for who names none all are listed.
inline TRITONSERVER_Error* is_wanted(TRITONBACKEND_Request* request, const char* output, bool* wanted)
{
  uint32_t count;
  TRY(TRITONBACKEND_RequestOutputCount(request, &count));
  *wanted = false;
  for (uint32_t index = 0; index < count; ++index) {
    const char* name;
    TRY(TRITONBACKEND_RequestOutputName(request, index, &name));
    *wanted = *wanted || std::strcmp(name, output) == 0;
  }
  return nullptr;
}

// Of the clock that statistics are told in.
inline uint64_t now_ns()
{
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

// What the configuration says: "parameters":{"<name>":{"string_value":"<value>"}}. Empty where it says nothing.
inline TRITONSERVER_Error* read_parameter(TRITONBACKEND_Model* model, const std::string& name, std::string* value)
{
  TRITONSERVER_Message* message;
  const char* json;
  size_t size;
  TRY(TRITONBACKEND_ModelConfig(model, 1, &message));
  TRY(TRITONSERVER_MessageSerializeToJson(message, &json, &size));
  const std::string config(json, size), before = "\"" + name + "\":{\"string_value\":\"";
  const size_t at = config.find(before);
  if (at != std::string::npos) {
    const size_t start = at + before.size();
    *value = config.substr(start, config.find('"', start) - start);
  }
  return TRITONSERVER_MessageDelete(message);
}
