// Small values that the API hands around: parameters, messages, buffers' attributes, allocators.
#pragma once

#include "core/base.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

struct TRITONSERVER_Message {
  std::string text;
};

struct TRITONSERVER_Metrics {
  std::string text;
};

struct TRITONSERVER_Parameter {
  std::string name;
  TRITONSERVER_ParameterType type = TRITONSERVER_PARAMETER_STRING;
  std::string text;       // of a string, and of bytes
  int64_t integer = 0;
  double real = 0;
  bool truth = false;

  const void* value() const
  {
    switch (type) {
      case TRITONSERVER_PARAMETER_INT:
        return &integer;
      case TRITONSERVER_PARAMETER_BOOL:
        return &truth;
      case TRITONSERVER_PARAMETER_DOUBLE:
        return &real;
      default:
        return text.c_str();
    }
  }
};

struct TRITONSERVER_BufferAttributes {
  TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
  int64_t memory_type_id = 0;
  size_t byte_size = 0;
  void* cuda_ipc_handle = nullptr;
};

struct TRITONSERVER_ResponseAllocator {
  TRITONSERVER_ResponseAllocatorAllocFn_t allocate;
  TRITONSERVER_ResponseAllocatorReleaseFn_t release;
  TRITONSERVER_ResponseAllocatorStartFn_t start;
  TRITONSERVER_ResponseAllocatorQueryFn_t query = nullptr;
  TRITONSERVER_ResponseAllocatorBufferAttributesFn_t attributes = nullptr;
};

namespace despina {

using Parameter = TRITONSERVER_Parameter;
using Parameters = std::vector<Parameter>;

inline Parameter named_string(std::string name, std::string value)
{
  Parameter made;
  made.name = std::move(name);
  made.text = std::move(value);
  return made;
}

inline Parameter named_integer(std::string name, int64_t value)
{
  Parameter made;
  made.name = std::move(name);
  made.type = TRITONSERVER_PARAMETER_INT;
  made.integer = value;
  return made;
}

inline Parameter named_truth(std::string name, bool value)
{
  Parameter made;
  made.name = std::move(name);
  made.type = TRITONSERVER_PARAMETER_BOOL;
  made.truth = value;
  return made;
}

inline Parameter named_real(std::string name, double value)
{
  Parameter made;
  made.name = std::move(name);
  made.type = TRITONSERVER_PARAMETER_DOUBLE;
  made.real = value;
  return made;
}

constexpr int kDataTypes = 15;
extern const char* const kDataTypeNames[kDataTypes];
extern const uint32_t kDataTypeSizes[kDataTypes];

// Some bytes of an input, wherever the caller has them.
struct Piece {
  const void* base;
  size_t byte_size;
  TRITONSERVER_MemoryType memory_type;
  int64_t memory_type_id;
};

struct Tensor {
  std::string name;
  TRITONSERVER_DataType datatype = TRITONSERVER_TYPE_INVALID;
  std::vector<int64_t> shape;
};

// Of outputs, which are mostly like those before them.
using TensorHandle = std::shared_ptr<const Tensor>;

// `text` as a string of JSON, quotes included.
std::string quoted(const char* text);

}  // namespace despina
