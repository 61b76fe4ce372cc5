/* What the programs have in common: checks that say where they failed, and one way to wait for responses. */
#ifndef TESTING_H
#define TESTING_H

#include "triton/core/tritonserver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                               \
    }                                                                        \
  } while (0)

/* The call succeeds. */
#define OK(call)                                                                                              \
  do {                                                                                                        \
    TRITONSERVER_Error* error_ = (call);                                                                      \
    if (error_ != NULL) {                                                                                     \
      fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, TRITONSERVER_ErrorCodeString(error_), \
              TRITONSERVER_ErrorMessage(error_));                                                             \
      exit(1);                                                                                                \
    }                                                                                                         \
  } while (0)

/* The call fails with that code, and a text that contains `words`. */
#define FAILS(code, words, call)                                                                          \
  do {                                                                                                    \
    TRITONSERVER_Error* error_ = (call);                                                                  \
    if (error_ == NULL || TRITONSERVER_ErrorCode(error_) != (code) ||                                     \
        strstr(TRITONSERVER_ErrorMessage(error_), (words)) == NULL) {                                     \
      fprintf(stderr, "%s:%d: %s: expected %s, got %s: %s\n", __FILE__, __LINE__, #call, (words),         \
              error_ == NULL ? "no error" : TRITONSERVER_ErrorCodeString(error_),                         \
              error_ == NULL ? "" : TRITONSERVER_ErrorMessage(error_));                                   \
      exit(1);                                                                                            \
    }                                                                                                     \
    TRITONSERVER_ErrorDelete(error_);                                                                     \
  } while (0)

/* Everything that callbacks of one request have told. */
typedef struct {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int responses;
  int finals;
  int releases;
  int allocations;
  int frees;
  int fail_allocation; /* this many-th allocation fails, from 1 */
  TRITONSERVER_InferenceResponse* last;
} Told;

static inline void told_init(Told* told)
{
  memset(told, 0, sizeof *told);
  pthread_mutex_init(&told->mutex, NULL);
  pthread_cond_init(&told->changed, NULL);
}

static inline TRITONSERVER_Error* allocate(
    TRITONSERVER_ResponseAllocator* allocator, const char* name, size_t size, TRITONSERVER_MemoryType type, int64_t id,
    void* userp, void** buffer, void** buffer_userp, TRITONSERVER_MemoryType* actual_type, int64_t* actual_id)
{
  Told* told = userp;
  (void)allocator, (void)name, (void)type, (void)id;
  pthread_mutex_lock(&told->mutex);
  int count = ++told->allocations;
  pthread_mutex_unlock(&told->mutex);
  if (count == told->fail_allocation) {
    told->allocations--;
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "no room for an output");
  }
  *buffer = malloc(size + 1);
  *buffer_userp = told;
  *actual_type = TRITONSERVER_MEMORY_CPU;
  *actual_id = 0;
  return NULL;
}

static inline TRITONSERVER_Error* release_buffer(
    TRITONSERVER_ResponseAllocator* allocator, void* buffer, void* buffer_userp, size_t size,
    TRITONSERVER_MemoryType type, int64_t id)
{
  Told* told = buffer_userp;
  (void)allocator, (void)size, (void)type, (void)id;
  free(buffer);
  pthread_mutex_lock(&told->mutex);
  told->frees++;
  pthread_mutex_unlock(&told->mutex);
  return NULL;
}

static inline void on_release(TRITONSERVER_InferenceRequest* request, const uint32_t flags, void* userp)
{
  Told* told = userp;
  (void)request;
  CHECK(flags == TRITONSERVER_REQUEST_RELEASE_ALL);
  pthread_mutex_lock(&told->mutex);
  told->releases++;
  pthread_cond_broadcast(&told->changed);
  pthread_mutex_unlock(&told->mutex);
}

/* Keeps the last response; earlier ones are deleted. */
static inline void on_response(TRITONSERVER_InferenceResponse* response, const uint32_t flags, void* userp)
{
  Told* told = userp;
  pthread_mutex_lock(&told->mutex);
  if (response != NULL) {
    told->responses++;
    TRITONSERVER_InferenceResponse* before = told->last;
    told->last = response;
    pthread_mutex_unlock(&told->mutex);
    if (before != NULL) OK(TRITONSERVER_InferenceResponseDelete(before));
    pthread_mutex_lock(&told->mutex);
  }
  if (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) told->finals++;
  pthread_cond_broadcast(&told->changed);
  pthread_mutex_unlock(&told->mutex);
}

/* Until so many requests were released, within ten seconds. */
static inline void until_released(Told* told, int count)
{
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += 10;
  pthread_mutex_lock(&told->mutex);
  while (told->releases < count) CHECK(pthread_cond_timedwait(&told->changed, &told->mutex, &deadline) == 0);
  pthread_mutex_unlock(&told->mutex);
}

static inline void drop_last(Told* told)
{
  if (told->last != NULL) OK(TRITONSERVER_InferenceResponseDelete(told->last));
  told->last = NULL;
  CHECK(told->allocations == told->frees);
}

static inline TRITONSERVER_Server* start_server(const char* repository, const char* model)
{
  TRITONSERVER_ServerOptions* options;
  TRITONSERVER_Server* server;
  OK(TRITONSERVER_ServerOptionsNew(&options));
  OK(TRITONSERVER_ServerOptionsSetServerId(options, "embedded"));
  OK(TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, repository));
  OK(TRITONSERVER_ServerOptionsSetModelControlMode(options, TRITONSERVER_MODEL_CONTROL_EXPLICIT));
  OK(TRITONSERVER_ServerOptionsSetStrictModelConfig(options, false));
  OK(TRITONSERVER_ServerOptionsSetLogInfo(options, false));
  OK(TRITONSERVER_ServerOptionsSetGpuMetrics(options, false));
  if (model != NULL) OK(TRITONSERVER_ServerOptionsSetStartupModel(options, model));
  OK(TRITONSERVER_ServerNew(&server, options));
  OK(TRITONSERVER_ServerOptionsDelete(options));
  return server;
}

/* A request to a model with one input. */
static inline TRITONSERVER_InferenceRequest* new_request(
    TRITONSERVER_Server* server, const char* model, const char* input, TRITONSERVER_DataType type,
    const int64_t* shape, uint64_t dims, const void* data, size_t size, TRITONSERVER_ResponseAllocator* allocator,
    Told* told)
{
  TRITONSERVER_InferenceRequest* request;
  OK(TRITONSERVER_InferenceRequestNew(&request, server, model, -1));
  OK(TRITONSERVER_InferenceRequestAddInput(request, input, type, shape, dims));
  OK(TRITONSERVER_InferenceRequestAppendInputData(request, input, data, size, TRITONSERVER_MEMORY_CPU, 0));
  OK(TRITONSERVER_InferenceRequestSetReleaseCallback(request, on_release, told));
  OK(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, told, on_response, told));
  return request;
}

static inline void check_output(
    TRITONSERVER_InferenceResponse* response, uint32_t index, const char* name, TRITONSERVER_DataType type,
    const void* data, size_t size)
{
  const char* found;
  TRITONSERVER_DataType datatype;
  const int64_t* shape;
  uint64_t dims;
  const void* base;
  size_t byte_size;
  TRITONSERVER_MemoryType memory;
  int64_t id;
  void* userp;
  OK(TRITONSERVER_InferenceResponseError(response));
  OK(TRITONSERVER_InferenceResponseOutput(
      response, index, &found, &datatype, &shape, &dims, &base, &byte_size, &memory, &id, &userp));
  CHECK(strcmp(found, name) == 0 && datatype == type && byte_size == size && memory == TRITONSERVER_MEMORY_CPU);
  CHECK(memcmp(base, data, size) == 0);
}

#endif
