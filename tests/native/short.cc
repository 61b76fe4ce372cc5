// A backend that says that OUTPUT0 has three elements, and gives none.

#include "reading.h"

extern "C" TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request** requests, const uint32_t count)
{
  return answer_each(requests, count, [](TRITONBACKEND_Request*, TRITONBACKEND_Response* response) {
    return write_output(response, "OUTPUT0", TRITONSERVER_TYPE_INT8, {1, 3}, "", 0);
  });
}
