/* CPU microseconds a request from a C program: capi MODELS BACKENDS MODEL, every answer checked. First identity of 1 KiB,
   the same request again and again; then requests that vary: MODEL, MODEL_2 and MODEL_3, 1 to 4 rows, other values and
   another id each time, outputs named or not. */
#include "testing.h"

#include <sys/resource.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static int in_flight;

enum { WIDTH = 256, ROWS_MAX = 4, PLACES = 1024, FORMS = 3 * ROWS_MAX * 2 };
static float values[PLACES + ROWS_MAX * WIDTH];

/* What a request is made of: from where in the values, how many rows. As a number, for callbacks. */
static uintptr_t made_of(size_t place, int rows) { return place * (ROWS_MAX + 1) + (size_t)rows; }

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
  (void)flags;
  const uintptr_t made = (uintptr_t)userp;
  const size_t size = made % (ROWS_MAX + 1) * WIDTH * sizeof *values;
  check_output(response, 0, "OUTPUT0", TRITONSERVER_TYPE_FP32, values + made / (ROWS_MAX + 1), size);
  OK(TRITONSERVER_InferenceResponseDelete(response));
}

static TRITONSERVER_InferenceRequest* made(
    TRITONSERVER_Server* server, const char* model, TRITONSERVER_ResponseAllocator* allocator, size_t place, int rows,
    bool names_output)
{
  const int64_t shape[2] = {rows, WIDTH};
  TRITONSERVER_InferenceRequest* request;
  OK(TRITONSERVER_InferenceRequestNew(&request, server, model, -1));
  OK(TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", TRITONSERVER_TYPE_FP32, shape, 2));
  OK(TRITONSERVER_InferenceRequestAppendInputData(
      request, "INPUT0", values + place, (size_t)rows * WIDTH * sizeof *values, TRITONSERVER_MEMORY_CPU, 0));
  if (names_output) OK(TRITONSERVER_InferenceRequestAddRequestedOutput(request, "OUTPUT0"));
  OK(TRITONSERVER_InferenceRequestSetReleaseCallback(request, released, NULL));
  OK(TRITONSERVER_InferenceRequestSetResponseCallback(
      request, allocator, NULL, answered, (void*)made_of(place, rows)));
  return request;
}

static TRITONSERVER_InferenceRequest* made_anew(
    TRITONSERVER_Server* server, const char* model, TRITONSERVER_ResponseAllocator* allocator, int count)
{
  static const char* const endings[3] = {"", "_2", "_3"};
  const int form = (int)((uint32_t)count * 2654435761u >> 8) % FORMS;
  char name[32], id[32];
  snprintf(name, sizeof name, "%s%s", model, endings[form % 3]);
  snprintf(id, sizeof id, "request-%d", count);
  TRITONSERVER_InferenceRequest* request =
      made(server, name, allocator, (size_t)count % PLACES, form / 3 % ROWS_MAX + 1, form / 3 / ROWS_MAX);
  OK(TRITONSERVER_InferenceRequestSetId(request, id));
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
  for (size_t place = 0; place < sizeof values / sizeof *values; ++place) values[place] = (float)place;

  const int calls = 100000;
  uint32_t major, minor;
  double began = now_ns();
  for (int count = 0; count < calls; ++count) OK(TRITONSERVER_ApiVersion(&major, &minor));
  printf("%s: ApiVersion: %.1f ns\n", argv[3], (now_ns() - began) / calls);
  began = now_ns();
  for (int count = 0; count < calls; ++count) {
    OK(TRITONSERVER_InferenceRequestDelete(made(server, argv[3], allocator, 0, 1, true)));
  }
  printf("%s: making and deleting a request, 7 calls: %.0f ns\n", argv[3], (now_ns() - began) / calls);
  const int callers[4] = {1, 8, 64, 256};
  for (int row = 0; row < 8; ++row) {
    const bool varies = row >= 4;
    const int most = callers[row % 4], requests = most == 1 ? 5000 : 40000;
    const double used = cpu_us();
    for (int count = 0; count < requests; ++count) {
      pthread_mutex_lock(&mutex);
      while (in_flight >= most) pthread_cond_wait(&left, &mutex);
      in_flight++;
      pthread_mutex_unlock(&mutex);
      TRITONSERVER_InferenceRequest* request = varies ? made_anew(server, argv[3], allocator, count)
                                                      : made(server, argv[3], allocator, 0, 1, true);
      OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
    }
    pthread_mutex_lock(&mutex);
    while (in_flight != 0) pthread_cond_wait(&left, &mutex);
    pthread_mutex_unlock(&mutex);
    printf("%s: %3d in flight%s: %.1f us\n", argv[3], most, varies ? ", each another" : "", (cpu_us() - used) / requests);
  }
  OK(TRITONSERVER_ServerDelete(server));
  OK(TRITONSERVER_ResponseAllocatorDelete(allocator));
  return 0;
}
