// OUTPUT0 is INPUT0, unless INPUT0 begins with a byte that ends the process: what `native_isolation` is for.
// The parameter `crashes` = `initialize` has the model end it before it is there.

#include "reading.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

namespace {

void end_by(int byte)
{
  if (byte == 1) {
    std::raise(SIGSEGV);
  } else if (byte == 2) {
    std::abort();
  } else if (byte == 3) {
    std::_Exit(3);
  } else if (byte == 4) {
    std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

TRITONSERVER_Error* answer(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response)
{
  Input input;
  TRY(read_input(request, "INPUT0", &input));
  end_by(input.bytes.empty() ? 0 : input.bytes[0]);
  return write_output(response, "OUTPUT0", input.datatype, input.shape, input.bytes.data(), input.bytes.size());
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model)
{
  std::string crashes;
  TRY(read_parameter(model, "crashes", &crashes));
  end_by(crashes == "initialize" ? 1 : 0);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request** requests, const uint32_t count)
{
  return answer_each(requests, count, answer);
}

}  // extern "C"
