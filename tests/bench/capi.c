/* CPU microseconds a request from a C program: capi MODELS BACKENDS MODEL, identity of 1 KiB, every answer checked. */
#include "testing.h"

#include <sys/resource.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static int in_flight;
static float values[256];

static double cpu_us(void)
{
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static double now_ns(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static TRITONSERVER_Error* allocate_plainly(
    TRITONSERVER_ResponseAllocator* allocator, const char* name, size_t size, TRITONSERVER_MemoryType type, int64_t id,
    void* userp, void** buffer, void** buffer_userp, TRITONSERVER_MemoryType* actual_type, int64_t* actual_id)
{
  (void)allocator, (void)name, (void)type, (void)id, (void)userp;
  *buffer = malloc(size);
  *buffer_userp = NULL;
  *actual_type = TRITONSERVER_MEMORY_CPU;
  *actual_id = 0;
  return NULL;
}

static TRITONSERVER_Error* free_plainly(
    TRITONSERVER_ResponseAllocator* allocator, void* buffer, void* buffer_userp, size_t size,
    TRITONSERVER_MemoryType type, int64_t id)
{
  (void)allocator, (void)buffer_userp, (void)size, (void)type, (void)id;
  free(buffer);
  return NULL;
}

static void released(TRITONSERVER_InferenceRequest* request, const uint32_t flags, void* userp)
{
  (void)flags, (void)userp;
  OK(TRITONSERVER_InferenceRequestDelete(request));
  pthread_mutex_lock(&mutex);
  in_flight--;
  pthread_cond_signal(&left);
  pthread_mutex_unlock(&mutex);
}

static void answered(TRITONSERVER_InferenceResponse* response, const uint32_t flags, void* userp)
{
  (void)flags, (void)userp;
  check_output(response, 0, "OUTPUT0", TRITONSERVER_TYPE_FP32, values, sizeof values);
  OK(TRITONSERVER_InferenceResponseDelete(response));
}

static TRITONSERVER_InferenceRequest* made(
    TRITONSERVER_Server* server, const char* model, TRITONSERVER_ResponseAllocator* allocator)
{
  const int64_t shape[2] = {1, 256};
  TRITONSERVER_InferenceRequest* request;
  OK(TRITONSERVER_InferenceRequestNew(&request, server, model, -1));
  OK(TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", TRITONSERVER_TYPE_FP32, shape, 2));
  OK(TRITONSERVER_InferenceRequestAppendInputData(request, "INPUT0", values, sizeof values, TRITONSERVER_MEMORY_CPU, 0));
  OK(TRITONSERVER_InferenceRequestAddRequestedOutput(request, "OUTPUT0"));
  OK(TRITONSERVER_InferenceRequestSetReleaseCallback(request, released, NULL));
  OK(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, NULL, answered, NULL));
  return request;
}

int main(int argc, char** argv)
{
  CHECK(argc == 4);
  TRITONSERVER_ServerOptions* options;
  TRITONSERVER_Server* server;
  TRITONSERVER_ResponseAllocator* allocator;
  OK(TRITONSERVER_ServerOptionsNew(&options));
  OK(TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, argv[1]));
  OK(TRITONSERVER_ServerOptionsSetBackendDirectory(options, argv[2]));
  OK(TRITONSERVER_ServerOptionsSetBackendConfig(options, "python", "isolation", "none"));
  OK(TRITONSERVER_ServerOptionsSetLogInfo(options, false));
  OK(TRITONSERVER_ServerNew(&server, options));
  OK(TRITONSERVER_ResponseAllocatorNew(&allocator, allocate_plainly, free_plainly, NULL));
  for (int place = 0; place < 256; ++place) values[place] = (float)place;

  const int calls = 100000;
  uint32_t major, minor;
  double began = now_ns();
  for (int count = 0; count < calls; ++count) OK(TRITONSERVER_ApiVersion(&major, &minor));
  printf("%s: ApiVersion: %.1f ns\n", argv[3], (now_ns() - began) / calls);
  began = now_ns();
  for (int count = 0; count < calls; ++count) OK(TRITONSERVER_InferenceRequestDelete(made(server, argv[3], allocator)));
  printf("%s: making and deleting a request, 7 calls: %.0f ns\n", argv[3], (now_ns() - began) / calls);
  const int callers[4] = {1, 8, 64, 256};
  for (int row = 0; row < 4; ++row) {
    const int requests = callers[row] == 1 ? 5000 : 40000;
    const double used = cpu_us();
    for (int count = 0; count < requests; ++count) {
      pthread_mutex_lock(&mutex);
      while (in_flight >= callers[row]) pthread_cond_wait(&left, &mutex);
      in_flight++;
      pthread_mutex_unlock(&mutex);
      OK(TRITONSERVER_ServerInferAsync(server, made(server, argv[3], allocator), NULL));
    }
    pthread_mutex_lock(&mutex);
    while (in_flight != 0) pthread_cond_wait(&left, &mutex);
    pthread_mutex_unlock(&mutex);
    printf("%s: %3d in flight: %.1f us\n", argv[3], callers[row], (cpu_us() - used) / requests);
  }
  OK(TRITONSERVER_ServerDelete(server));
  OK(TRITONSERVER_ResponseAllocatorDelete(allocator));
  return 0;
}
