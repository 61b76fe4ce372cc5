// A response cache: keeps everything, in a map.

#include "checks.h"
#include "triton/core/tritoncache.h"
#include <map>
#include <mutex>
#include <string>
#include <vector>

struct TRITONCACHE_Cache {
  std::mutex mutex;
  std::map<std::string, std::vector<std::string>> entries;
  TRITONSERVER_BufferAttributes* attributes;  // of one buffer after the other, with the mutex
};

extern "C" TRITONSERVER_Error* TRITONCACHE_CacheInitialize(TRITONCACHE_Cache** cache, const char* config)
{
  REQUIRE(std::string(config).find("\"color\":\"blue\"") != std::string::npos, INVALID_ARG, "the cache must be blue");
  *cache = new TRITONCACHE_Cache;
  return TRITONSERVER_BufferAttributesNew(&(*cache)->attributes);
}

extern "C" TRITONSERVER_Error* TRITONCACHE_CacheFinalize(TRITONCACHE_Cache* cache)
{
  TRITONSERVER_BufferAttributesDelete(cache->attributes);
  delete cache;
  return nullptr;
}

extern "C" TRITONSERVER_Error* TRITONCACHE_CacheInsert(
    TRITONCACHE_Cache* cache, const char* key, TRITONCACHE_CacheEntry* entry, TRITONCACHE_Allocator* allocator)
{
  std::lock_guard<std::mutex> lock(cache->mutex);
  REQUIRE(cache->entries.count(key) == 0, ALREADY_EXISTS, "there is such an entry");
  void* base;
  size_t count, size;
  TRY(TRITONCACHE_CacheEntryBufferCount(entry, &count));
  std::vector<std::string> kept(count);
  for (size_t index = 0; index < count; ++index) {
    TRITONCACHE_CacheEntryGetBuffer(entry, index, &base, cache->attributes);
    TRITONSERVER_BufferAttributesByteSize(cache->attributes, &size);
    kept[index].resize(size);
    TRITONCACHE_CacheEntrySetBuffer(entry, index, &kept[index][0], nullptr);  // where it is to be copied to
  }
  TRY(TRITONCACHE_Copy(allocator, entry));
  cache->entries[key] = std::move(kept);
  return nullptr;
}

extern "C" TRITONSERVER_Error* TRITONCACHE_CacheLookup(
    TRITONCACHE_Cache* cache, const char* key, TRITONCACHE_CacheEntry* entry, TRITONCACHE_Allocator* allocator)
{
  std::lock_guard<std::mutex> lock(cache->mutex);
  REQUIRE(cache->entries.count(key) != 0, NOT_FOUND, "there is no such entry");
  for (std::string& bytes : cache->entries[key]) {
    TRITONSERVER_BufferAttributesSetByteSize(cache->attributes, bytes.size());
    TRITONCACHE_CacheEntryAddBuffer(entry, &bytes[0], cache->attributes);
  }
  return TRITONCACHE_Copy(allocator, entry);
}
