/* One inference, its response read in every way, then requests that cannot be accepted. */
#include "testing.h"

static void refusals(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const float data[8] = {0};
  const int64_t wrong[2] = {1, 5}, right[2] = {1, 4}, many[2] = {9, 4};
  TRITONSERVER_InferenceRequest* request;
  Told told;
  told_init(&told);
  FAILS(TRITONSERVER_ERROR_NOT_FOUND, "Request for unknown model: 'nobody' is not found",
        TRITONSERVER_InferenceRequestNew(&request, server, "nobody", -1));
  FAILS(TRITONSERVER_ERROR_NOT_FOUND, "identity", TRITONSERVER_InferenceRequestNew(&request, server, "identity", 7));

  request = new_request(server, "identity", "INPUT0", TRITONSERVER_TYPE_FP32, wrong, 2, data, 20, allocator, &told);
  FAILS(TRITONSERVER_ERROR_INVALID_ARG,
        "unexpected shape for input 'INPUT0' for model 'identity'. Expected [-1,4], got [1,5].",
        TRITONSERVER_ServerInferAsync(server, request, NULL));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "input 'INPUT0' already exists in request",
        TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", TRITONSERVER_TYPE_FP32, right, 2));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "input 'X' does not exist in request",
        TRITONSERVER_InferenceRequestRemoveInput(request, "X"));
  OK(TRITONSERVER_InferenceRequestRemoveAllInputs(request));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "expected 1 inputs but got 0 inputs for model 'identity'",
        TRITONSERVER_ServerInferAsync(server, request, NULL));

  OK(TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", TRITONSERVER_TYPE_FP32, many, 2));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "inference request batch-size must be <= 8 for 'identity'",
        TRITONSERVER_ServerInferAsync(server, request, NULL));
  OK(TRITONSERVER_InferenceRequestRemoveInput(request, "INPUT0"));
  OK(TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", TRITONSERVER_TYPE_INT32, right, 2));
  OK(TRITONSERVER_InferenceRequestAppendInputData(request, "INPUT0", data, 16, TRITONSERVER_MEMORY_CPU, 0));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "inference input 'INPUT0' data-type is 'INT32', but model 'identity' expects",
        TRITONSERVER_ServerInferAsync(server, request, NULL));
  OK(TRITONSERVER_InferenceRequestRemoveInput(request, "INPUT0"));
  OK(TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", TRITONSERVER_TYPE_FP32, right, 2));
  OK(TRITONSERVER_InferenceRequestAppendInputData(request, "INPUT0", data, 12, TRITONSERVER_MEMORY_CPU, 0));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "input byte size mismatch for input 'INPUT0' for model 'identity'. Expected 16",
        TRITONSERVER_ServerInferAsync(server, request, NULL));
  OK(TRITONSERVER_InferenceRequestRemoveAllInputData(request, "INPUT0"));
  OK(TRITONSERVER_InferenceRequestAppendInputData(request, "INPUT0", data, 16, TRITONSERVER_MEMORY_CPU, 0));
  OK(TRITONSERVER_InferenceRequestAddRequestedOutput(request, "NOTHING"));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "unexpected inference output 'NOTHING' for model 'identity'",
        TRITONSERVER_ServerInferAsync(server, request, NULL));
  CHECK(told.releases == 0 && told.responses == 0);

  /* What was refused is the caller's still, and may be put right and sent. */
  OK(TRITONSERVER_InferenceRequestRemoveRequestedOutput(request, "NOTHING"));
  OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
  until_released(&told, 1);
  check_output(told.last, 0, "OUTPUT0", TRITONSERVER_TYPE_FP32, data, 16);
  drop_last(&told);
  OK(TRITONSERVER_InferenceRequestDelete(request));
}

static void allocation_fails(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const char text[] = "\3\0\0\0abc\0\0\0\0";
  const int64_t shape[1] = {2};
  Told told;
  told_init(&told);
  told.fail_allocation = 2;
  TRITONSERVER_InferenceRequest* request =
      new_request(server, "labelled", "TEXT", TRITONSERVER_TYPE_BYTES, shape, 1, text, 11, allocator, &told);
  OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
  until_released(&told, 1);
  TRITONSERVER_Error* error = TRITONSERVER_InferenceResponseError(told.last);
  CHECK(error != NULL && TRITONSERVER_ErrorCode(error) == TRITONSERVER_ERROR_UNAVAILABLE);
  CHECK(strcmp(TRITONSERVER_ErrorMessage(error), "no room for an output") == 0);
  CHECK(told.frees == 1); /* what was allocated before */
  drop_last(&told);
  OK(TRITONSERVER_InferenceRequestDelete(request));
}

static void labels_and_parameters(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const char text[] = "\3\0\0\0abc\0\0\0\0";
  const int64_t shape[1] = {2};
  const float scores[3] = {0.25f, 0.5f, 0.125f};
  const char *label, *name;
  uint32_t count;
  Told told;
  told_init(&told);
  TRITONSERVER_InferenceRequest* request =
      new_request(server, "labelled", "TEXT", TRITONSERVER_TYPE_BYTES, shape, 1, text, 7, allocator, &told);
  OK(TRITONSERVER_InferenceRequestAppendInputData(request, "TEXT", text + 7, 4, TRITONSERVER_MEMORY_CPU_PINNED, 0));
  OK(TRITONSERVER_InferenceRequestSetStringParameter(request, "who", "me"));
  OK(TRITONSERVER_InferenceRequestSetIntParameter(request, "many", -5));
  OK(TRITONSERVER_InferenceRequestSetBoolParameter(request, "so", true));
  OK(TRITONSERVER_InferenceRequestSetDoubleParameter(request, "much", 0.5));
  OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
  until_released(&told, 1);
  check_output(told.last, 0, "SCORES", TRITONSERVER_TYPE_FP32, scores, sizeof scores);
  check_output(told.last, 1, "TEXT", TRITONSERVER_TYPE_BYTES, text, 11);
  OK(TRITONSERVER_InferenceResponseOutputClassificationLabel(told.last, 0, 1, &label));
  CHECK(strcmp(label, "dog") == 0);
  OK(TRITONSERVER_InferenceResponseOutputClassificationLabel(told.last, 0, 3, &label));
  CHECK(label == NULL);
  OK(TRITONSERVER_InferenceResponseOutputClassificationLabel(told.last, 1, 0, &label));
  CHECK(label == NULL);
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "out of bounds index 2",
        TRITONSERVER_InferenceResponseOutputClassificationLabel(told.last, 2, 0, &label));
  OK(TRITONSERVER_InferenceResponseParameterCount(told.last, &count));
  CHECK(count == 3);
  for (uint32_t index = 0; index < count; ++index) {
    TRITONSERVER_ParameterType type;
    const void* value;
    OK(TRITONSERVER_InferenceResponseParameter(told.last, index, &name, &type, &value));
    if (strcmp(name, "count") == 0) CHECK(type == TRITONSERVER_PARAMETER_INT && *(const int64_t*)value == 2);
    if (strcmp(name, "first") == 0) CHECK(type == TRITONSERVER_PARAMETER_STRING && strcmp(value, "abc") == 0);
    if (strcmp(name, "even") == 0) CHECK(type == TRITONSERVER_PARAMETER_BOOL && *(const bool*)value);
  }
  drop_last(&told);
  OK(TRITONSERVER_InferenceRequestDelete(request));
}

static void raw_input(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator)
{
  const float data[4] = {1, 2, 3, 4};
  TRITONSERVER_InferenceRequest* request;
  Told told;
  told_init(&told);
  OK(TRITONSERVER_InferenceRequestNew(&request, server, "identity", 1));
  OK(TRITONSERVER_InferenceRequestAddRawInput(request, "anything"));
  OK(TRITONSERVER_InferenceRequestAppendInputData(request, "anything", data, 16, TRITONSERVER_MEMORY_CPU, 0));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "release callback", TRITONSERVER_ServerInferAsync(server, request, NULL));
  OK(TRITONSERVER_InferenceRequestSetReleaseCallback(request, on_release, &told));
  OK(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, &told, on_response, &told));
  OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
  until_released(&told, 1);
  check_output(told.last, 0, "OUTPUT0", TRITONSERVER_TYPE_FP32, data, 16);
  drop_last(&told);
  OK(TRITONSERVER_InferenceRequestDelete(request));
}

int main(int argc, char** argv)
{
  CHECK(argc == 2);
  TRITONSERVER_Server* server = start_server(argv[1], "*");
  TRITONSERVER_ResponseAllocator* allocator;
  OK(TRITONSERVER_ResponseAllocatorNew(&allocator, allocate, release_buffer, NULL));

  const float data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const int64_t shape[2] = {2, 4};
  const char *name, *id;
  int64_t version;
  uint32_t count;
  Told told;
  told_init(&told);
  TRITONSERVER_InferenceRequest* request =
      new_request(server, "identity", "INPUT0", TRITONSERVER_TYPE_FP32, shape, 2, data, sizeof data, allocator, &told);
  OK(TRITONSERVER_InferenceRequestSetId(request, "first"));
  for (int again = 1; again <= 3; ++again) { /* a request may be sent again once it was released */
    OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
    until_released(&told, again);
    CHECK(told.responses == again && told.finals == again);
    check_output(told.last, 0, "OUTPUT0", TRITONSERVER_TYPE_FP32, data, sizeof data);
  }
  OK(TRITONSERVER_InferenceResponseModel(told.last, &name, &version));
  OK(TRITONSERVER_InferenceResponseId(told.last, &id));
  OK(TRITONSERVER_InferenceResponseOutputCount(told.last, &count));
  CHECK(strcmp(name, "identity") == 0 && version == 1 && strcmp(id, "first") == 0 && count == 1);
  drop_last(&told);
  OK(TRITONSERVER_InferenceRequestDelete(request));

  refusals(server, allocator);
  raw_input(server, allocator);
  labels_and_parameters(server, allocator);
  allocation_fails(server, allocator);
  OK(TRITONSERVER_ServerDelete(server));
  OK(TRITONSERVER_ResponseAllocatorDelete(allocator));
  puts("done");
  return 0;
}
