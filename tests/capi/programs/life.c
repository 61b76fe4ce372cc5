/* Loaded by dlopen for itself alone: two servers, one after another, forks, signals. */
#include "testing.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>

static void handler(int signal) { (void)signal; }

#define LOOKED_UP(name)                                          \
  __typeof__(&name) my_##name = (__typeof__(&name))dlsym(library, #name); \
  CHECK(my_##name != NULL)

int main(int argc, char** argv)
{
  CHECK(argc == 3);
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fprintf(stderr, "%s\n", dlerror());
  CHECK(library != NULL);
  LOOKED_UP(TRITONSERVER_ServerOptionsNew);
  LOOKED_UP(TRITONSERVER_ServerOptionsDelete);
  LOOKED_UP(TRITONSERVER_ServerOptionsSetModelRepositoryPath);
  LOOKED_UP(TRITONSERVER_ServerOptionsSetModelControlMode);
  LOOKED_UP(TRITONSERVER_ServerOptionsSetStartupModel);
  LOOKED_UP(TRITONSERVER_ServerOptionsSetLogInfo);
  LOOKED_UP(TRITONSERVER_ServerOptionsSetGpuMetrics);
  LOOKED_UP(TRITONSERVER_ServerNew);
  LOOKED_UP(TRITONSERVER_ServerDelete);
  LOOKED_UP(TRITONSERVER_ServerModelIsReady);
  LOOKED_UP(TRITONSERVER_InferenceRequestNew);
  LOOKED_UP(TRITONSERVER_ErrorMessage);
  LOOKED_UP(TRITONSERVER_ErrorCode);
  LOOKED_UP(TRITONSERVER_ErrorDelete);

  struct sigaction before[32], after;
  sigset_t mask_before, mask_after;
  signal(SIGINT, handler);
  signal(SIGUSR1, SIG_IGN);
  for (int number = 1; number < 32; ++number) sigaction(number, NULL, &before[number]);
  pthread_sigmask(SIG_SETMASK, NULL, &mask_before);

  TRITONSERVER_ServerOptions* options;
  TRITONSERVER_Server *one, *two;
  TRITONSERVER_InferenceRequest* request;
  bool ready;
  CHECK(my_TRITONSERVER_ServerOptionsNew(&options) == NULL);
  CHECK(my_TRITONSERVER_ServerOptionsSetLogInfo(options, false) == NULL);
  CHECK(my_TRITONSERVER_ServerOptionsSetGpuMetrics(options, false) == NULL);
  TRITONSERVER_Error* error = my_TRITONSERVER_ServerNew(&one, options);
  CHECK(error != NULL && strstr(my_TRITONSERVER_ErrorMessage(error), "--model-repository must be specified") != NULL);
  my_TRITONSERVER_ErrorDelete(error);
  CHECK(my_TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, argv[2]) == NULL);
  CHECK(my_TRITONSERVER_ServerOptionsSetModelControlMode(options, TRITONSERVER_MODEL_CONTROL_EXPLICIT) == NULL);
  CHECK(my_TRITONSERVER_ServerNew(&one, options) == NULL);
  CHECK(my_TRITONSERVER_ServerOptionsSetStartupModel(options, "identity") == NULL);
  CHECK(my_TRITONSERVER_ServerNew(&two, options) == NULL); /* one set of options, two servers */
  CHECK(my_TRITONSERVER_ServerModelIsReady(one, "identity", -1, &ready) == NULL && !ready);
  CHECK(my_TRITONSERVER_ServerModelIsReady(two, "identity", -1, &ready) == NULL && ready);

  pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
  for (int number = 1; number < 32; ++number) {
    sigaction(number, NULL, &after);
    CHECK(after.sa_handler == before[number].sa_handler);
    CHECK(sigismember(&mask_after, number) == sigismember(&mask_before, number));
  }

  pid_t child = fork();
  if (child == 0) {
    error = my_TRITONSERVER_ServerModelIsReady(two, "identity", -1, &ready);
    _exit(error != NULL && my_TRITONSERVER_ErrorCode(error) == TRITONSERVER_ERROR_UNAVAILABLE &&
          strstr(my_TRITONSERVER_ErrorMessage(error), "belongs to the process that made it") != NULL &&
          my_TRITONSERVER_InferenceRequestNew(&request, two, "identity", -1) != NULL &&
          my_TRITONSERVER_ServerDelete(two) != NULL ? 0 : 1);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);

  CHECK(my_TRITONSERVER_ServerDelete(two) == NULL);
  CHECK(my_TRITONSERVER_ServerModelIsReady(one, "identity", -1, &ready) == NULL && !ready);
  CHECK(my_TRITONSERVER_ServerNew(&two, options) == NULL); /* and again */
  CHECK(my_TRITONSERVER_ServerModelIsReady(two, "identity", -1, &ready) == NULL && ready);
  CHECK(my_TRITONSERVER_ServerDelete(two) == NULL);
  CHECK(my_TRITONSERVER_ServerOptionsDelete(options) == NULL);
  puts("done");
  return 0; /* without deleting the other one */
}
