/* Many requests at one time, streams, cancelling, traces, and a server that is deleted while requests are in flight. */
#include "testing.h"

enum { FLIGHTS = 64, ROUNDS = 20 };

/* 64 requests in flight, again and again: each response is its own request's. */
static void many(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  static Told told[FLIGHTS];
  static float data[FLIGHTS][4];
  TRITONSERVER_InferenceRequest* requests[FLIGHTS];
  const int64_t shape[2] = {1, 4};
  for (int index = 0; index < FLIGHTS; ++index) {
    told_init(&told[index]);
    requests[index] = new_request(server, "identity", "INPUT0", TRITONSERVER_TYPE_FP32, shape, 2, data[index],
                                  sizeof data[index], allocator, &told[index]);
  }
  for (int round = 1; round <= ROUNDS; ++round) {
    for (int index = 0; index < FLIGHTS; ++index) {
      for (int place = 0; place < 4; ++place) data[index][place] = (float)(index * 1000 + round * 4 + place);
      OK(TRITONSERVER_ServerInferAsync(server, requests[index], NULL));
    }
    for (int index = 0; index < FLIGHTS; ++index) {
      until_released(&told[index], round);
      check_output(told[index].last, 0, "OUTPUT0", TRITONSERVER_TYPE_FP32, data[index], sizeof data[index]);
    }
  }
  for (int index = 0; index < FLIGHTS; ++index) {
    CHECK(told[index].responses == ROUNDS && told[index].finals == ROUNDS && told[index].releases == ROUNDS);
    drop_last(&told[index]);
    OK(TRITONSERVER_InferenceRequestDelete(requests[index]));
  }
}

/* Requests of many forms side by side, some of which say more than a form has, while their model is loaded anew. */
static void forms(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  static Told told[FLIGHTS];
  static float data[FLIGHTS][32];
  TRITONSERVER_InferenceRequest* requests[FLIGHTS];
  char id[16];
  for (int index = 0; index < FLIGHTS; ++index) {
    const int64_t shape[2] = {index % 8 + 1, 4};
    for (int place = 0; place < 32; ++place) data[index][place] = (float)(index * 32 + place);
    told_init(&told[index]);
    requests[index] = new_request(server, "identity", "INPUT0", TRITONSERVER_TYPE_FP32, shape, 2, data[index],
                                  (size_t)shape[0] * 16, allocator, &told[index]);
    snprintf(id, sizeof id, "number %d", index);
    OK(TRITONSERVER_InferenceRequestSetId(requests[index], index % 5 ? id : ""));
    if (index % 3 == 0) OK(TRITONSERVER_InferenceRequestAddRequestedOutput(requests[index], "OUTPUT0"));
    if (index % 7 == 0) OK(TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(requests[index], 60000000));
    if (index % 11 == 0) OK(TRITONSERVER_InferenceRequestSetIntParameter(requests[index], "number", index));
  }
  for (int round = 1; round <= 3; ++round) {
    for (int index = 0; index < FLIGHTS; ++index) OK(TRITONSERVER_ServerInferAsync(server, requests[index], NULL));
    OK(TRITONSERVER_ServerLoadModel(server, "identity"));
    for (int index = 0; index < FLIGHTS; ++index) {
      const char *name, *said;
      int64_t version;
      until_released(&told[index], round);
      const size_t size = (size_t)(index % 8 + 1) * 16;
      check_output(told[index].last, 0, "OUTPUT0", TRITONSERVER_TYPE_FP32, data[index], size);
      OK(TRITONSERVER_InferenceResponseModel(told[index].last, &name, &version));
      OK(TRITONSERVER_InferenceResponseId(told[index].last, &said));
      snprintf(id, sizeof id, "number %d", index);
      CHECK(strcmp(name, "identity") == 0 && version == 1 && strcmp(said, index % 5 ? id : "") == 0);
      CHECK(told[index].responses == round && told[index].finals == round);
    }
  }
  for (int index = 0; index < FLIGHTS; ++index) {
    drop_last(&told[index]);
    OK(TRITONSERVER_InferenceRequestDelete(requests[index]));
  }
}

static void streams(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const int64_t shape[1] = {1};
  const int counts[3] = {3, 0, 500};
  for (int place = 0; place < 3; ++place) {
    Told told;
    told_init(&told);
    TRITONSERVER_InferenceRequest* request = new_request(
        server, "repeat", "COUNT", TRITONSERVER_TYPE_INT32, shape, 1, &counts[place], 4, allocator, &told);
    OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
    until_released(&told, 1);
    CHECK(told.responses == counts[place] && told.finals == 1 && told.releases == 1);
    if (counts[place] != 0) {
      int last = counts[place] - 1;
      check_output(told.last, 0, "INDEX", TRITONSERVER_TYPE_INT32, &last, 4);
    }
    drop_last(&told);
    OK(TRITONSERVER_InferenceRequestDelete(request));
  }
}

static void cancelling(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const int64_t shape[1] = {1};
  const float seconds = 0.3f;
  Told told[2];
  TRITONSERVER_InferenceRequest* requests[2];
  bool is;
  for (int index = 0; index < 2; ++index) {
    told_init(&told[index]);
    requests[index] =
        new_request(server, "slow", "SECONDS", TRITONSERVER_TYPE_FP32, shape, 1, &seconds, 4, allocator, &told[index]);
    OK(TRITONSERVER_ServerInferAsync(server, requests[index], NULL));
  }
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "in flight", TRITONSERVER_InferenceRequestDelete(requests[1]));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "in flight", TRITONSERVER_ServerInferAsync(server, requests[1], NULL));
  OK(TRITONSERVER_InferenceRequestIsCancelled(requests[1], &is));
  CHECK(!is);
  OK(TRITONSERVER_InferenceRequestCancel(requests[1])); /* it waits behind the first */
  OK(TRITONSERVER_InferenceRequestCancel(requests[1]));
  until_released(&told[1], 1);
  CHECK(told[0].releases == 0);
  OK(TRITONSERVER_InferenceRequestIsCancelled(requests[1], &is));
  CHECK(is && told[1].responses == 1 && told[1].finals == 1);
  CHECK(TRITONSERVER_ErrorCode(TRITONSERVER_InferenceResponseError(told[1].last)) == TRITONSERVER_ERROR_CANCELLED);
  until_released(&told[0], 1);
  check_output(told[0].last, 0, "SLEPT", TRITONSERVER_TYPE_FP32, &seconds, 4);
  for (int index = 0; index < 2; ++index) {
    drop_last(&told[index]);
    OK(TRITONSERVER_InferenceRequestDelete(requests[index]));
  }
}

static int activities, tensors, traces_released;
static uint64_t last_ns;

static void on_activity(
    TRITONSERVER_InferenceTrace* trace, TRITONSERVER_InferenceTraceActivity activity, uint64_t ns, void* userp)
{
  (void)userp;
  const char* name;
  OK(TRITONSERVER_InferenceTraceModelName(trace, &name));
  CHECK(strcmp(name, "identity") == 0 && ns >= last_ns);
  last_ns = ns;
  activities |= 1 << activity;
}

static void on_tensor(
    TRITONSERVER_InferenceTrace* trace, TRITONSERVER_InferenceTraceActivity activity, const char* name,
    TRITONSERVER_DataType datatype, const void* base, size_t size, const int64_t* shape, uint64_t dims,
    TRITONSERVER_MemoryType memory, int64_t id, void* userp)
{
  (void)trace, (void)name, (void)memory, (void)id, (void)userp;
  CHECK(datatype == TRITONSERVER_TYPE_FP32 && size == 16 && dims == 2 && shape[1] == 4);
  CHECK(((const float*)base)[2] == 3);
  tensors |= 1 << activity;
}

static void on_trace_release(TRITONSERVER_InferenceTrace* trace, void* userp)
{
  (void)userp;
  traces_released++;
  OK(TRITONSERVER_InferenceTraceDelete(trace));
}

static void tracing(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const int64_t shape[2] = {1, 4};
  const float data[4] = {1, 2, 3, 4};
  Told told;
  told_init(&told);
  TRITONSERVER_InferenceTrace* trace;
  OK(TRITONSERVER_InferenceTraceTensorNew(
      &trace, TRITONSERVER_TRACE_LEVEL_TIMESTAMPS | TRITONSERVER_TRACE_LEVEL_TENSORS, 0, on_activity, on_tensor,
      on_trace_release, NULL));
  TRITONSERVER_InferenceRequest* request =
      new_request(server, "identity", "INPUT0", TRITONSERVER_TYPE_FP32, shape, 2, data, 16, allocator, &told);
  OK(TRITONSERVER_ServerInferAsync(server, request, trace));
  until_released(&told, 1);
  CHECK(activities == 0x7f && traces_released == 1);
  CHECK(tensors == (1 << TRITONSERVER_TRACE_TENSOR_QUEUE_INPUT | 1 << TRITONSERVER_TRACE_TENSOR_BACKEND_OUTPUT));
  drop_last(&told);
  OK(TRITONSERVER_InferenceRequestDelete(request));
}

/* A callback may ask the server, and send more requests. */
static TRITONSERVER_Server* asked;

static void on_nested(TRITONSERVER_InferenceResponse* response, const uint32_t flags, void* userp)
{
  Told* told = userp;
  bool ready;
  OK(TRITONSERVER_ServerModelIsReady(asked, "identity", -1, &ready));
  CHECK(ready);
  FAILS(TRITONSERVER_ERROR_UNSUPPORTED, "within one of its callbacks", TRITONSERVER_ServerDelete(asked));
  on_response(response, flags, told);
}

static void nested(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const int64_t shape[2] = {1, 4};
  const float data[4] = {1, 2, 3, 4};
  Told told;
  told_init(&told);
  asked = server;
  TRITONSERVER_InferenceRequest* request =
      new_request(server, "identity", "INPUT0", TRITONSERVER_TYPE_FP32, shape, 2, data, 16, allocator, &told);
  OK(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, &told, on_nested, &told));
  OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
  until_released(&told, 1);
  drop_last(&told);
  OK(TRITONSERVER_InferenceRequestDelete(request));
}

/* Every request is answered and released, whatever becomes of the server. */
static void deleted_in_flight(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const int64_t shape[1] = {1};
  const float seconds = 0.2f;
  Told told[4];
  TRITONSERVER_InferenceRequest* requests[4];
  for (int index = 0; index < 4; ++index) {
    told_init(&told[index]);
    requests[index] =
        new_request(server, "slow", "SECONDS", TRITONSERVER_TYPE_FP32, shape, 1, &seconds, 4, allocator, &told[index]);
    OK(TRITONSERVER_ServerInferAsync(server, requests[index], NULL));
  }
  OK(TRITONSERVER_ServerDelete(server));
  for (int index = 0; index < 4; ++index) {
    CHECK(told[index].responses == 1 && told[index].finals == 1 && told[index].releases == 1);
    drop_last(&told[index]);
    OK(TRITONSERVER_InferenceRequestDelete(requests[index]));
  }
}

int main(int argc, char** argv)
{
  CHECK(argc == 2);
  TRITONSERVER_Server* server = start_server(argv[1], "*");
  TRITONSERVER_ResponseAllocator* allocator;
  OK(TRITONSERVER_ResponseAllocatorNew(&allocator, allocate, release_buffer, NULL));
  many(server, allocator);
  forms(server, allocator);
  streams(server, allocator);
  cancelling(server, allocator);
  tracing(server, allocator);
  nested(server, allocator);
  deleted_in_flight(server, allocator);
  OK(TRITONSERVER_ResponseAllocatorDelete(allocator));
  puts("done");
  return 0;
}
