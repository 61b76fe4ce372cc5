#include "plugin/plugin.h"

#include <cstring>

namespace despina {

std::unique_ptr<Cache> open_cache(const std::string& path, const std::string& config)
{
  auto cache = std::make_unique<Cache>();
  void* library = cache->library = load_plugin(path);
  using Initialize = TRITONSERVER_Error* (*)(TRITONCACHE_Cache**, const char*);
  const auto initialize = plugin_entry<Initialize>(library, "TRITONCACHE_CacheInitialize", true);
  cache->finalize = plugin_entry<Cache::Call>(library, "TRITONCACHE_CacheFinalize", true);
  cache->lookup = plugin_entry<Cache::EntryCall>(library, "TRITONCACHE_CacheLookup", true);
  cache->insert = plugin_entry<Cache::EntryCall>(library, "TRITONCACHE_CacheInsert", true);
  raise(initialize(&cache->cache, config.c_str()));
  return cache;
}

bool insert(Cache& cache, const std::string& key, const std::string& entry)
{
  TRITONCACHE_CacheEntry shown;
  TRITONSERVER_BufferAttributes attributes;
  attributes.byte_size = entry.size();
  shown.buffers.push_back({const_cast<char*>(entry.data()), attributes});
  TRITONCACHE_Allocator allocator;
  allocator.inserted = &entry;
  Error* error = cache.insert(cache.cache, key.c_str(), &shown, &allocator);
  if (error != nullptr && error->code == TRITONSERVER_ERROR_ALREADY_EXISTS) {
    TRITONSERVER_ErrorDelete(error);
    return false;
  }
  raise(error);
  return true;
}

bool lookup(Cache& cache, const std::string& key, std::string* entry)
{
  TRITONCACHE_CacheEntry shown;
  TRITONCACHE_Allocator allocator;
  allocator.found = entry;
  Error* error = cache.lookup(cache.cache, key.c_str(), &shown, &allocator);
  if (error != nullptr && error->code == TRITONSERVER_ERROR_NOT_FOUND) {
    TRITONSERVER_ErrorDelete(error);
    return false;
  }
  raise(error);
  return true;
}

void close_cache(std::unique_ptr<Cache> cache)
{
  raise(cache->finalize(cache->cache));
}

}  // namespace despina

using namespace despina;

namespace {

TRITONCACHE_CacheEntry::Buffer& nth_buffer(TRITONCACHE_CacheEntry* entry, size_t index)
{
  TRITONCACHE_CacheEntry& found = need(entry, "cache entry");
  if (index >= found.buffers.size()) {
    invalid("index was greater than count of buffers in cache entry");
  }
  return found.buffers[index];
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONCACHE_ApiVersion(uint32_t* major, uint32_t* minor)
{
  *major = TRITONCACHE_API_VERSION_MAJOR;
  *minor = TRITONCACHE_API_VERSION_MINOR;
  return nullptr;
}

TRITONSERVER_Error* TRITONCACHE_CacheEntryBufferCount(TRITONCACHE_CacheEntry* entry, size_t* count)
{
  return guarded([&] { *count = need(entry, "cache entry").buffers.size(); });
}

TRITONSERVER_Error* TRITONCACHE_CacheEntryAddBuffer(
    TRITONCACHE_CacheEntry* entry, void* base, TRITONSERVER_BufferAttributes* buffer_attributes)
{
  return guarded([&] {
    need(entry, "cache entry").buffers.push_back({base, need(buffer_attributes, "buffer attributes")});
  });
}

TRITONSERVER_Error* TRITONCACHE_CacheEntryGetBuffer(
    TRITONCACHE_CacheEntry* entry, size_t index, void** base, TRITONSERVER_BufferAttributes* buffer_attributes)
{
  return guarded([&] {
    const TRITONCACHE_CacheEntry::Buffer& buffer = nth_buffer(entry, index);
    *base = buffer.base;
    need(buffer_attributes, "buffer attributes") = buffer.attributes;
  });
}

TRITONSERVER_Error* TRITONCACHE_CacheEntrySetBuffer(
    TRITONCACHE_CacheEntry* entry, size_t index, void* new_base, TRITONSERVER_BufferAttributes* buffer_attributes)
{
  return guarded([&] {
    TRITONCACHE_CacheEntry::Buffer& buffer = nth_buffer(entry, index);
    buffer.base = new_base;
    if (buffer_attributes != nullptr) {
      buffer.attributes = *buffer_attributes;
    }
  });
}

TRITONSERVER_Error* TRITONCACHE_Copy(TRITONCACHE_Allocator* allocator, TRITONCACHE_CacheEntry* entry)
{
  return guarded([&] {
    const TRITONCACHE_Allocator& places = need(allocator, "allocator");
    size_t at = 0;
    for (const TRITONCACHE_CacheEntry::Buffer& buffer : need(entry, "cache entry").buffers) {
      const size_t size = buffer.attributes.byte_size;
      if (buffer.attributes.memory_type == TRITONSERVER_MEMORY_GPU) {
        refuse(TRITONSERVER_ERROR_UNSUPPORTED, "cache entries are kept in CPU memory");
      }
      if (places.found != nullptr) {
        places.found->append(static_cast<const char*>(buffer.base), size);
      } else if (size > places.inserted->size() - at) {
        invalid("the buffers of the cache entry are larger than what is inserted");
      } else {
        std::memcpy(buffer.base, places.inserted->data() + at, size);
        at += size;
      }
    }
  });
}

}  // extern "C"
