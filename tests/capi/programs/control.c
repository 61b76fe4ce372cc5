/* Everything about a server and its models but inference. */
#include "testing.h"

static char text[65536];

static const char* read_message(TRITONSERVER_Message* message)
{
  const char* base;
  size_t size;
  OK(TRITONSERVER_MessageSerializeToJson(message, &base, &size));
  CHECK(size < sizeof text);
  memcpy(text, base, size);
  text[size] = 0;
  OK(TRITONSERVER_MessageDelete(message));
  return text;
}

#define SAYS(words) CHECK(strstr(text, (words)) != NULL)

static void descriptions(TRITONSERVER_Server* server)
{
  TRITONSERVER_Message* message;
  bool is;
  uint32_t flags;
  void* more;
  OK(TRITONSERVER_ServerIsLive(server, &is));
  CHECK(is);
  OK(TRITONSERVER_ServerIsReady(server, &is));
  CHECK(is);
  OK(TRITONSERVER_ServerMetadata(server, &message));
  read_message(message);
  SAYS("\"name\":\"embedded\"");
  SAYS("\"extensions\":[\"classification\"");
  OK(TRITONSERVER_ServerModelMetadata(server, "identity", -1, &message));
  read_message(message);
  SAYS("{\"name\":\"INPUT0\",\"datatype\":\"FP32\",\"shape\":[-1,4]}");
  FAILS(TRITONSERVER_ERROR_NOT_FOUND, "Request for unknown model: 'repeat' is not found",
        TRITONSERVER_ServerModelMetadata(server, "repeat", -1, &message));
  OK(TRITONSERVER_ServerModelConfig(server, "identity", -1, 1, &message));
  read_message(message);
  SAYS("\"max_batch_size\":8");
  SAYS("\"dims\":[4]");
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "version 2 not supported",
        TRITONSERVER_ServerModelConfig(server, "identity", -1, 2, &message));
  OK(TRITONSERVER_ServerModelBatchProperties(server, "identity", -1, &flags, &more));
  CHECK(flags == TRITONSERVER_BATCH_FIRST_DIM);
  OK(TRITONSERVER_ServerModelTransactionProperties(server, "identity", 1, &flags, &more));
  CHECK(flags == TRITONSERVER_TXN_ONE_TO_ONE);
  OK(TRITONSERVER_ServerModelStatistics(server, "", -1, &message));
  read_message(message);
  SAYS("\"model_stats\":[{\"name\":\"identity\"");
}

static void coming_and_going(TRITONSERVER_Server* server)
{
  TRITONSERVER_Message* message;
  bool is;
  uint32_t flags;
  void* more;
  OK(TRITONSERVER_ServerModelIsReady(server, "repeat", -1, &is));
  CHECK(!is);
  OK(TRITONSERVER_ServerLoadModel(server, "repeat"));
  OK(TRITONSERVER_ServerModelIsReady(server, "repeat", 1, &is));
  CHECK(is);
  OK(TRITONSERVER_ServerModelTransactionProperties(server, "repeat", -1, &flags, &more));
  CHECK(flags == TRITONSERVER_TXN_DECOUPLED);
  OK(TRITONSERVER_ServerModelBatchProperties(server, "repeat", -1, &flags, &more));
  CHECK(flags == TRITONSERVER_BATCH_UNKNOWN);
  OK(TRITONSERVER_ServerModelIndex(server, TRITONSERVER_INDEX_FLAG_READY, &message));
  read_message(message);
  SAYS("{\"name\":\"repeat\",\"version\":\"1\",\"state\":\"READY\"}");
  CHECK(strstr(text, "slow") == NULL);
  OK(TRITONSERVER_ServerModelIndex(server, 0, &message));
  read_message(message);
  SAYS("{\"name\":\"slow\"}");
  OK(TRITONSERVER_ServerUnloadModel(server, "repeat"));
  OK(TRITONSERVER_ServerUnloadModelAndDependents(server, "nobody"));
  FAILS(TRITONSERVER_ERROR_INTERNAL, "failed to load 'nobody'", TRITONSERVER_ServerLoadModel(server, "nobody"));
}

/* The configuration and a file of a model, given instead of those in the repository. */
static void overrides(TRITONSERVER_Server* server)
{
  static const char config[] =
      "{\"backend\":\"python\",\"max_batch_size\":0,\"input\":[{\"name\":\"A\",\"data_type\":\"TYPE_INT8\","
      "\"dims\":[1]}],\"output\":[{\"name\":\"B\",\"data_type\":\"TYPE_INT8\",\"dims\":[1]}]}";
  static const char code[] =
      "import triton_python_backend_utils as u\n"
      "class TritonPythonModel:\n"
      "    def execute(self, requests):\n"
      "        return [u.InferenceResponse([u.Tensor('B', u.get_input_tensor_by_name(r, 'A').as_numpy() + 1)])\n"
      "                for r in requests]\n";
  const TRITONSERVER_Parameter* given[2];
  TRITONSERVER_Message* message;
  TRITONSERVER_Parameter* wrong = TRITONSERVER_ParameterNew("other", TRITONSERVER_PARAMETER_STRING, "x");
  given[0] = wrong;
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "unrecognized load parameter 'other'",
        TRITONSERVER_ServerLoadModelWithParameters(server, "fresh", given, 1));
  given[0] = TRITONSERVER_ParameterNew("config", TRITONSERVER_PARAMETER_STRING, config);
  given[1] = TRITONSERVER_ParameterBytesNew("file:3/model.py", code, sizeof code - 1);
  OK(TRITONSERVER_ServerLoadModelWithParameters(server, "fresh", given, 2));
  OK(TRITONSERVER_ServerModelMetadata(server, "fresh", -1, &message));
  read_message(message);
  SAYS("\"versions\":[\"3\"]");

  const char five = 5, six = 6;
  const int64_t shape[1] = {1};
  Told told;
  told_init(&told);
  TRITONSERVER_ResponseAllocator* allocator;
  OK(TRITONSERVER_ResponseAllocatorNew(&allocator, allocate, release_buffer, NULL));
  TRITONSERVER_InferenceRequest* request =
      new_request(server, "fresh", "A", TRITONSERVER_TYPE_INT8, shape, 1, &five, 1, allocator, &told);
  OK(TRITONSERVER_ServerInferAsync(server, request, NULL));
  until_released(&told, 1);
  check_output(told.last, 0, "B", TRITONSERVER_TYPE_INT8, &six, 1);
  drop_last(&told);
  OK(TRITONSERVER_InferenceRequestDelete(request));
  OK(TRITONSERVER_ResponseAllocatorDelete(allocator));
  TRITONSERVER_ParameterDelete((TRITONSERVER_Parameter*)given[0]);
  TRITONSERVER_ParameterDelete((TRITONSERVER_Parameter*)given[1]);
  TRITONSERVER_ParameterDelete(wrong);
}

static void repositories(TRITONSERVER_Server* server, const char* path)
{
  char other[4096];
  snprintf(other, sizeof other, "%s/..", path);
  FAILS(TRITONSERVER_ERROR_ALREADY_EXISTS, "has already been registered",
        TRITONSERVER_ServerRegisterModelRepository(server, path, NULL, 0));
  OK(TRITONSERVER_ServerRegisterModelRepository(server, other, NULL, 0));
  OK(TRITONSERVER_ServerUnregisterModelRepository(server, other));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "failed to unregister",
        TRITONSERVER_ServerUnregisterModelRepository(server, other));
  FAILS(TRITONSERVER_ERROR_UNAVAILABLE, "poll", TRITONSERVER_ServerPollModelRepository(server));
}

static const char* metrics_page(TRITONSERVER_Server* server)
{
  TRITONSERVER_Metrics* metrics;
  const char* base;
  size_t size;
  OK(TRITONSERVER_ServerMetrics(server, &metrics));
  OK(TRITONSERVER_MetricsFormatted(metrics, TRITONSERVER_METRIC_PROMETHEUS, &base, &size));
  CHECK(size < sizeof text);
  memcpy(text, base, size);
  text[size] = 0;
  OK(TRITONSERVER_MetricsDelete(metrics));
  return text;
}

static void own_metrics(TRITONSERVER_Server* server)
{
  TRITONSERVER_MetricFamily *family, *same, *buckets;
  TRITONSERVER_Metric *one, *two, *histogram;
  TRITONSERVER_MetricArgs* args;
  TRITONSERVER_MetricKind kind;
  double value;
  const double bounds[2] = {0.1, 1};
  int64_t number = 1;
  TRITONSERVER_Parameter* label = TRITONSERVER_ParameterNew("who", TRITONSERVER_PARAMETER_STRING, "\"me\"");
  TRITONSERVER_Parameter* bad = TRITONSERVER_ParameterNew("who", TRITONSERVER_PARAMETER_INT, &number);
  const TRITONSERVER_Parameter* labels[1] = {label};
  OK(TRITONSERVER_MetricFamilyNew(&family, TRITONSERVER_METRIC_KIND_COUNTER, "app_steps", "How many."));
  OK(TRITONSERVER_MetricFamilyNew(&same, TRITONSERVER_METRIC_KIND_COUNTER, "app_steps", "How many."));
  OK(TRITONSERVER_GetMetricFamilyKind(family, &kind));
  CHECK(kind == TRITONSERVER_METRIC_KIND_COUNTER);
  OK(TRITONSERVER_MetricNew(&one, family, labels, 1));
  OK(TRITONSERVER_MetricNew(&two, same, labels, 1));
  OK(TRITONSERVER_MetricIncrement(one, 2));
  OK(TRITONSERVER_MetricIncrement(two, 0.5));
  OK(TRITONSERVER_MetricValue(one, &value));
  CHECK(value == 2.5); /* the same series */
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "monotonically", TRITONSERVER_MetricIncrement(one, -1));
  FAILS(TRITONSERVER_ERROR_UNSUPPORTED, "TRITONSERVER_METRIC_KIND_COUNTER does not support Set",
        TRITONSERVER_MetricSet(one, 1));
  labels[0] = bad;
  TRITONSERVER_Metric* none;
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "Parameter [who] must have a type of TRITONSERVER_PARAMETER_STRING",
        TRITONSERVER_MetricNew(&none, family, labels, 1));
  OK(TRITONSERVER_MetricFamilyNew(&buckets, TRITONSERVER_METRIC_KIND_HISTOGRAM, "app_seconds", "How long."));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "Bucket boundaries not found in Metric args.",
        TRITONSERVER_MetricNew(&none, buckets, NULL, 0));
  OK(TRITONSERVER_MetricArgsNew(&args));
  OK(TRITONSERVER_MetricArgsSetHistogram(args, bounds, 2));
  FAILS(TRITONSERVER_ERROR_INVALID_ARG, "Unexpected args found in counter Metric constructor.",
        TRITONSERVER_MetricNewWithArgs(&none, family, NULL, 0, args));
  OK(TRITONSERVER_MetricNewWithArgs(&histogram, buckets, NULL, 0, args));
  OK(TRITONSERVER_MetricArgsDelete(args));
  OK(TRITONSERVER_MetricObserve(histogram, 0.1));
  OK(TRITONSERVER_MetricObserve(histogram, 7));
  FAILS(TRITONSERVER_ERROR_UNSUPPORTED, "TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Value",
        TRITONSERVER_MetricValue(histogram, &value));
  metrics_page(server);
  SAYS("nv_inference_request_success{model=\"identity\",version=\"1\"} 0\n");
  SAYS("# HELP app_steps How many.\n# TYPE app_steps counter\napp_steps{who=\"\\\"me\\\"\"} 2.5\n");
  SAYS("app_seconds_bucket{le=\"0.10000000000000001\"} 1\napp_seconds_bucket{le=\"1\"} 1\n");
  SAYS("app_seconds_bucket{le=\"+Inf\"} 2\napp_seconds_count 2\napp_seconds_sum 7.0999999999999996\n");
  OK(TRITONSERVER_MetricFamilyDelete(same));
  FAILS(TRITONSERVER_ERROR_INTERNAL, "Could not increment metric value. Metric has been invalidated.",
        TRITONSERVER_MetricIncrement(two, 1));
  OK(TRITONSERVER_MetricDelete(two));
  OK(TRITONSERVER_MetricIncrement(one, 1));
  OK(TRITONSERVER_MetricDelete(one));
  OK(TRITONSERVER_MetricFamilyDelete(family));
  OK(TRITONSERVER_MetricDelete(histogram));
  OK(TRITONSERVER_MetricFamilyDelete(buckets));
  metrics_page(server);
  CHECK(strstr(text, "app_") == NULL);
  TRITONSERVER_ParameterDelete(label);
  TRITONSERVER_ParameterDelete(bad);
}

static void values(void)
{
  uint32_t major, minor;
  size_t size;
  int64_t id;
  void* handle;
  TRITONSERVER_MemoryType type;
  TRITONSERVER_BufferAttributes* attributes;
  OK(TRITONSERVER_ApiVersion(&major, &minor));
  CHECK(major == TRITONSERVER_API_VERSION_MAJOR && minor == TRITONSERVER_API_VERSION_MINOR);
  CHECK(TRITONSERVER_StringToDataType("BF16") == TRITONSERVER_TYPE_BF16);
  CHECK(TRITONSERVER_StringToDataType("text") == TRITONSERVER_TYPE_INVALID);
  CHECK(TRITONSERVER_DataTypeByteSize(TRITONSERVER_TYPE_BYTES) == 0);
  CHECK(TRITONSERVER_DataTypeByteSize(TRITONSERVER_TYPE_FP64) == 8);
  CHECK(strcmp(TRITONSERVER_DataTypeString(TRITONSERVER_TYPE_UINT16), "UINT16") == 0);
  CHECK(strcmp(TRITONSERVER_MemoryTypeString(TRITONSERVER_MEMORY_CPU_PINNED), "CPU_PINNED") == 0);
  CHECK(strcmp(TRITONSERVER_ParameterTypeString(TRITONSERVER_PARAMETER_DOUBLE), "DOUBLE") == 0);
  CHECK(strcmp(TRITONSERVER_InstanceGroupKindString(TRITONSERVER_INSTANCEGROUPKIND_MODEL), "MODEL") == 0);
  CHECK(strcmp(TRITONSERVER_InferenceTraceActivityString(TRITONSERVER_TRACE_QUEUE_START), "QUEUE_START") == 0);
  CHECK(strcmp(TRITONSERVER_InferenceTraceLevelString(TRITONSERVER_TRACE_LEVEL_TENSORS), "TENSORS") == 0);
  OK(TRITONSERVER_BufferAttributesNew(&attributes));
  OK(TRITONSERVER_BufferAttributesSetByteSize(attributes, 77));
  OK(TRITONSERVER_BufferAttributesSetMemoryType(attributes, TRITONSERVER_MEMORY_GPU));
  OK(TRITONSERVER_BufferAttributesSetMemoryTypeId(attributes, 3));
  OK(TRITONSERVER_BufferAttributesSetCudaIpcHandle(attributes, &major));
  OK(TRITONSERVER_BufferAttributesByteSize(attributes, &size));
  OK(TRITONSERVER_BufferAttributesMemoryType(attributes, &type));
  OK(TRITONSERVER_BufferAttributesMemoryTypeId(attributes, &id));
  OK(TRITONSERVER_BufferAttributesCudaIpcHandle(attributes, &handle));
  CHECK(size == 77 && type == TRITONSERVER_MEMORY_GPU && id == 3 && handle == &major);
  OK(TRITONSERVER_BufferAttributesDelete(attributes));
}

int main(int argc, char** argv)
{
  CHECK(argc == 2);
  values();
  TRITONSERVER_Server* server = start_server(argv[1], "identity");
  descriptions(server);
  coming_and_going(server);
  repositories(server, argv[1]);
  own_metrics(server);
  overrides(server);
  OK(TRITONSERVER_LogMessage(TRITONSERVER_LOG_WARN, "control.c", 7, "a warning of the \"application\""));
  CHECK(TRITONSERVER_LogIsEnabled(TRITONSERVER_LOG_ERROR) && !TRITONSERVER_LogIsEnabled(TRITONSERVER_LOG_VERBOSE));
  OK(TRITONSERVER_ServerSetExitTimeout(server, 5));
  OK(TRITONSERVER_ServerStop(server));
  bool ready;
  OK(TRITONSERVER_ServerIsReady(server, &ready));
  CHECK(!ready);
  OK(TRITONSERVER_ServerDelete(server));
  puts("done");
  return 0;
}
