#include "core/values.h"

#include <cstdio>
#include <cstring>

namespace despina {

const char* const kDataTypeNames[kDataTypes] = {"<invalid>", "BOOL",  "UINT8", "UINT16", "UINT32",
                                                "UINT64",    "INT8",  "INT16", "INT32",  "INT64",
                                                "FP16",      "FP32",  "FP64",  "BYTES",  "BF16"};
const uint32_t kDataTypeSizes[kDataTypes] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2};

std::string quoted(const char* text)
{
  std::string written = "\"";
  for (const char* at = text == nullptr ? "" : text; *at != 0; ++at) {
    const unsigned char letter = static_cast<unsigned char>(*at);
    if (letter == '"' || letter == '\\') {
      written += '\\';
      written += *at;
    } else if (letter < 32) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", letter);
      written += escape;
    } else {
      written += *at;
    }
  }
  return written + '"';
}

namespace {

template <size_t Count>
const char* name_in(const char* const (&names)[Count], int number, const char* otherwise)
{
  return number >= 0 && number < static_cast<int>(Count) ? names[number] : otherwise;
}

}  // namespace
}  // namespace despina

using namespace despina;

extern "C" {

TRITONSERVER_Error* TRITONSERVER_ApiVersion(uint32_t* major, uint32_t* minor)
{
  *major = TRITONSERVER_API_VERSION_MAJOR;
  *minor = TRITONSERVER_API_VERSION_MINOR;
  return nullptr;
}

const char* TRITONSERVER_DataTypeString(TRITONSERVER_DataType datatype)
{
  return name_in(kDataTypeNames, datatype, "<invalid>");
}

TRITONSERVER_DataType TRITONSERVER_StringToDataType(const char* dtype)
{
  for (int number = 1; dtype != nullptr && number < kDataTypes; ++number) {
    if (std::strcmp(dtype, kDataTypeNames[number]) == 0) {
      return static_cast<TRITONSERVER_DataType>(number);
    }
  }
  return TRITONSERVER_TYPE_INVALID;
}

uint32_t TRITONSERVER_DataTypeByteSize(TRITONSERVER_DataType datatype)
{
  return datatype >= 0 && datatype < kDataTypes ? kDataTypeSizes[datatype] : 0;
}

const char* TRITONSERVER_MemoryTypeString(TRITONSERVER_MemoryType memtype)
{
  static const char* const names[] = {"CPU", "CPU_PINNED", "GPU"};
  return name_in(names, memtype, "<invalid>");
}

const char* TRITONSERVER_ParameterTypeString(TRITONSERVER_ParameterType paramtype)
{
  static const char* const names[] = {"STRING", "INT", "BOOL", "DOUBLE", "BYTES"};
  return name_in(names, paramtype, "<invalid>");
}

const char* TRITONSERVER_InstanceGroupKindString(TRITONSERVER_InstanceGroupKind kind)
{
  static const char* const names[] = {"AUTO", "CPU", "GPU", "MODEL"};
  return name_in(names, kind, "<invalid>");
}

TRITONSERVER_Parameter* TRITONSERVER_ParameterNew(
    const char* name, const TRITONSERVER_ParameterType type, const void* value)
{
  if (name == nullptr || value == nullptr) {
    return nullptr;
  }
  try {
    switch (type) {
      case TRITONSERVER_PARAMETER_STRING:
        return new Parameter(named_string(name, static_cast<const char*>(value)));
      case TRITONSERVER_PARAMETER_INT:
        return new Parameter(named_integer(name, *static_cast<const int64_t*>(value)));
      case TRITONSERVER_PARAMETER_BOOL:
        return new Parameter(named_truth(name, *static_cast<const bool*>(value)));
      case TRITONSERVER_PARAMETER_DOUBLE:
        return new Parameter(named_real(name, *static_cast<const double*>(value)));
      default:
        return nullptr;
    }
  } catch (...) {
    return nullptr;
  }
}

TRITONSERVER_Parameter* TRITONSERVER_ParameterBytesNew(const char* name, const void* byte_ptr, const uint64_t size)
{
  if (name == nullptr || (byte_ptr == nullptr && size != 0)) {
    return nullptr;
  }
  try {
    Parameter made = named_string(name, std::string(static_cast<const char*>(byte_ptr), size));
    made.type = TRITONSERVER_PARAMETER_BYTES;
    return new Parameter(std::move(made));
  } catch (...) {
    return nullptr;
  }
}

void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter* parameter)
{
  delete parameter;
}

TRITONSERVER_Error* TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char* msg)
{
  try {
    return make_error(code, text_of(msg));
  } catch (...) {
    return &no_memory;
  }
}

void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error)
{
  if (error != &no_memory) {
    delete error;
  }
}

TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error* error)
{
  return error->code;
}

const char* TRITONSERVER_ErrorCodeString(TRITONSERVER_Error* error)
{
  static const char* const names[] = {"Unknown",     "Internal",       "Not found", "Invalid argument", "Unavailable",
                                      "Unsupported", "Already exists", "Cancelled"};
  return name_in(names, error->code, "<invalid code>");
}

const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error* error)
{
  return error->text.c_str();
}

TRITONSERVER_Error* TRITONSERVER_MessageNewFromSerializedJson(
    TRITONSERVER_Message** message, const char* base, size_t byte_size)
{
  return guarded([&] { *message = new TRITONSERVER_Message{std::string(&need(base, "JSON"), byte_size)}; });
}

TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message* message)
{
  delete message;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(
    TRITONSERVER_Message* message, const char** base, size_t* byte_size)
{
  return guarded([&] {
    const std::string& text = need(message, "message").text;
    *base = text.data();
    *byte_size = text.size();
  });
}

TRITONSERVER_Error* TRITONSERVER_MetricsDelete(TRITONSERVER_Metrics* metrics)
{
  delete metrics;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricsFormatted(
    TRITONSERVER_Metrics* metrics, TRITONSERVER_MetricFormat format, const char** base, size_t* byte_size)
{
  return guarded([&] {
    if (format != TRITONSERVER_METRIC_PROMETHEUS) {
      invalid("unknown metrics format '" + std::to_string(format) + "'");
    }
    const std::string& text = need(metrics, "metrics").text;
    *base = text.data();
    *byte_size = text.size();
  });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesNew(TRITONSERVER_BufferAttributes** buffer_attributes)
{
  return guarded([&] { *buffer_attributes = new TRITONSERVER_BufferAttributes; });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesDelete(TRITONSERVER_BufferAttributes* buffer_attributes)
{
  delete buffer_attributes;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesSetMemoryTypeId(
    TRITONSERVER_BufferAttributes* buffer_attributes, int64_t memory_type_id)
{
  return guarded([&] { need(buffer_attributes, "buffer attributes").memory_type_id = memory_type_id; });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesSetMemoryType(
    TRITONSERVER_BufferAttributes* buffer_attributes, TRITONSERVER_MemoryType memory_type)
{
  return guarded([&] { need(buffer_attributes, "buffer attributes").memory_type = memory_type; });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesSetCudaIpcHandle(
    TRITONSERVER_BufferAttributes* buffer_attributes, void* cuda_ipc_handle)
{
  return guarded([&] { need(buffer_attributes, "buffer attributes").cuda_ipc_handle = cuda_ipc_handle; });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesSetByteSize(
    TRITONSERVER_BufferAttributes* buffer_attributes, size_t byte_size)
{
  return guarded([&] { need(buffer_attributes, "buffer attributes").byte_size = byte_size; });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesMemoryTypeId(
    TRITONSERVER_BufferAttributes* buffer_attributes, int64_t* memory_type_id)
{
  return guarded([&] { *memory_type_id = need(buffer_attributes, "buffer attributes").memory_type_id; });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesMemoryType(
    TRITONSERVER_BufferAttributes* buffer_attributes, TRITONSERVER_MemoryType* memory_type)
{
  return guarded([&] { *memory_type = need(buffer_attributes, "buffer attributes").memory_type; });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesCudaIpcHandle(
    TRITONSERVER_BufferAttributes* buffer_attributes, void** cuda_ipc_handle)
{
  return guarded([&] { *cuda_ipc_handle = need(buffer_attributes, "buffer attributes").cuda_ipc_handle; });
}

TRITONSERVER_Error* TRITONSERVER_BufferAttributesByteSize(
    TRITONSERVER_BufferAttributes* buffer_attributes, size_t* byte_size)
{
  return guarded([&] { *byte_size = need(buffer_attributes, "buffer attributes").byte_size; });
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorNew(
    TRITONSERVER_ResponseAllocator** allocator, TRITONSERVER_ResponseAllocatorAllocFn_t alloc_fn,
    TRITONSERVER_ResponseAllocatorReleaseFn_t release_fn, TRITONSERVER_ResponseAllocatorStartFn_t start_fn)
{
  return guarded([&] {
    if (alloc_fn == nullptr || release_fn == nullptr) {
      invalid("a response allocator needs an allocation function and a release function");
    }
    *allocator = new TRITONSERVER_ResponseAllocator{alloc_fn, release_fn, start_fn};
  });
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorSetBufferAttributesFunction(
    TRITONSERVER_ResponseAllocator* allocator, TRITONSERVER_ResponseAllocatorBufferAttributesFn_t buffer_attributes_fn)
{
  return guarded([&] { need(allocator, "allocator").attributes = buffer_attributes_fn; });
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorSetQueryFunction(
    TRITONSERVER_ResponseAllocator* allocator, TRITONSERVER_ResponseAllocatorQueryFn_t query_fn)
{
  return guarded([&] { need(allocator, "allocator").query = query_fn; });
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorDelete(TRITONSERVER_ResponseAllocator* allocator)
{
  delete allocator;
  return nullptr;
}

}  // extern "C"
