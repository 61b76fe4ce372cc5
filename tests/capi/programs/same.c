/* Sends the requests that a file describes, one after the other, and prints what comes of each: see test_same.py. */
#include "testing.h"

#define LINE_MAX_BYTES (1 << 21)

/* What the responses of one request were, as text. */
typedef struct {
  Told told;
  FILE* text;
} Heard;

static void print_hex(FILE* to, const void* base, size_t size)
{
  for (size_t index = 0; index < size; ++index) fprintf(to, "%02x", ((const unsigned char*)base)[index]);
}

static void print_error(FILE* to, TRITONSERVER_Error* error)
{
  fprintf(to, "%s: %s\n", TRITONSERVER_ErrorCodeString(error), TRITONSERVER_ErrorMessage(error));
}

static void print_parameters(FILE* to, TRITONSERVER_InferenceResponse* response)
{
  uint32_t count;
  OK(TRITONSERVER_InferenceResponseParameterCount(response, &count));
  for (uint32_t index = 0; index < count; ++index) {
    const char* name;
    TRITONSERVER_ParameterType type;
    const void* value;
    OK(TRITONSERVER_InferenceResponseParameter(response, index, &name, &type, &value));
    CHECK(type == TRITONSERVER_PARAMETER_STRING);
    fprintf(to, " %s=%s", name, (const char*)value);
  }
}

static void print_response(FILE* to, TRITONSERVER_InferenceResponse* response)
{
  const char *model, *id;
  int64_t version;
  uint32_t count;
  TRITONSERVER_Error* error = TRITONSERVER_InferenceResponseError(response);
  if (error != NULL) {
    print_error(to, error); /* the response keeps it */
    return;
  }
  OK(TRITONSERVER_InferenceResponseModel(response, &model, &version));
  OK(TRITONSERVER_InferenceResponseId(response, &id));
  OK(TRITONSERVER_InferenceResponseOutputCount(response, &count));
  fprintf(to, "%s %lld '%s'", model, (long long)version, id);
  print_parameters(to, response);
  for (uint32_t index = 0; index < count; ++index) {
    const char* name;
    TRITONSERVER_DataType datatype;
    const int64_t* shape;
    uint64_t dims;
    const void* base;
    size_t size;
    TRITONSERVER_MemoryType memory;
    int64_t memory_id;
    void* userp;
    OK(TRITONSERVER_InferenceResponseOutput(
        response, index, &name, &datatype, &shape, &dims, &base, &size, &memory, &memory_id, &userp));
    fprintf(to, " | %s %s [", name, TRITONSERVER_DataTypeString(datatype));
    for (uint64_t dim = 0; dim < dims; ++dim) fprintf(to, "%s%lld", dim == 0 ? "" : ",", (long long)shape[dim]);
    fputs("] ", to);
    print_hex(to, base, size);
  }
  fputc('\n', to);
}

static void heard(TRITONSERVER_InferenceResponse* response, const uint32_t flags, void* userp)
{
  Heard* by = userp;
  (void)flags; /* the release says when it is over */
  if (response != NULL) {
    print_response(by->text, response);
    OK(TRITONSERVER_InferenceResponseDelete(response));
  }
}

/* "NAME DATATYPE SHAPE HEX": the shape with commas, `-` for nothing. */
static TRITONSERVER_Error* add_input(TRITONSERVER_InferenceRequest* request, char* line, void** data)
{
  const char* name = strtok(line, " \n");
  const TRITONSERVER_DataType datatype = TRITONSERVER_StringToDataType(strtok(NULL, " \n"));
  char* dims = strtok(NULL, " \n");
  const char* hex = strtok(NULL, " \n");
  int64_t shape[8];
  uint64_t count = 0;
  for (char* at = dims; *at != '-' && *at != 0; at += *at == ',') shape[count++] = strtoll(at, &at, 10);
  const size_t size = *hex == '-' ? 0 : strlen(hex) / 2;
  unsigned char* bytes = *data = malloc(size + 1);
  for (size_t index = 0; index < size; ++index) {
    const char digits[3] = {hex[2 * index], hex[2 * index + 1], 0};
    bytes[index] = (unsigned char)strtoul(digits, NULL, 16);
  }
  TRITONSERVER_Error* error = TRITONSERVER_InferenceRequestAddInput(request, name, datatype, shape, count);
  if (error == NULL) {
    error = TRITONSERVER_InferenceRequestAppendInputData(request, name, bytes, size, TRITONSERVER_MEMORY_CPU, 0);
  }
  return error;
}

/* "MODEL VERSION ID OUTPUT COUNT", `-` for no id and no output named, then COUNT lines of inputs. */
static void ask(
    TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator, char* first, char* line, FILE* cases)
{
  char model[64], id[64], output[64];
  long long version;
  int count;
  CHECK(sscanf(first, "%63s %lld %63s %63s %d", model, &version, id, output, &count) == 5 && count <= 2);
  void* data[2] = {NULL, NULL};
  TRITONSERVER_InferenceRequest* request = NULL;
  TRITONSERVER_Error* error = TRITONSERVER_InferenceRequestNew(&request, server, model, version);
  for (int index = 0; index < count; ++index) {
    CHECK(fgets(line, LINE_MAX_BYTES, cases) != NULL);
    if (error == NULL) error = add_input(request, line, &data[index]);
  }
  if (error == NULL && *id != '-') error = TRITONSERVER_InferenceRequestSetId(request, id);
  if (error == NULL && *output != '-') error = TRITONSERVER_InferenceRequestAddRequestedOutput(request, output);
  Heard by;
  told_init(&by.told);
  by.text = stdout;
  if (error == NULL) error = TRITONSERVER_InferenceRequestSetReleaseCallback(request, on_release, &by.told);
  if (error == NULL) {
    error = TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, &by.told, heard, &by);
  }
  if (error == NULL) error = TRITONSERVER_ServerInferAsync(server, request, NULL);
  if (error != NULL) {
    print_error(stdout, error);
    TRITONSERVER_ErrorDelete(error);
  } else {
    until_released(&by.told, 1);
  }
  if (request != NULL) OK(TRITONSERVER_InferenceRequestDelete(request));
  for (int index = 0; index < count; ++index) free(data[index]);
}

int main(int argc, char** argv)
{
  CHECK(argc == 4); /* repository, directory of backends, file */
  TRITONSERVER_ServerOptions* options;
  TRITONSERVER_Server* server;
  TRITONSERVER_ResponseAllocator* allocator;
  OK(TRITONSERVER_ServerOptionsNew(&options));
  OK(TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, argv[1]));
  OK(TRITONSERVER_ServerOptionsSetBackendDirectory(options, argv[2]));
  OK(TRITONSERVER_ServerOptionsSetBackendConfig(options, "python", "isolation", "none"));
  OK(TRITONSERVER_ServerOptionsSetLogInfo(options, false));
  OK(TRITONSERVER_ServerOptionsSetGpuMetrics(options, false));
  OK(TRITONSERVER_ServerNew(&server, options));
  OK(TRITONSERVER_ServerOptionsDelete(options));
  OK(TRITONSERVER_ResponseAllocatorNew(&allocator, allocate, release_buffer, NULL));

  FILE* cases = fopen(argv[3], "r");
  CHECK(cases != NULL);
  char* first = malloc(LINE_MAX_BYTES);
  char* line = malloc(LINE_MAX_BYTES);
  for (int number = 0; fgets(first, LINE_MAX_BYTES, cases) != NULL; ++number) {
    printf("#%d\n", number);
    ask(server, allocator, first, line, cases);
  }
  fclose(cases);
  free(first);
  free(line);
  OK(TRITONSERVER_ServerDelete(server));
  OK(TRITONSERVER_ResponseAllocatorDelete(allocator));
  puts("done");
  return 0;
}
