// From the engine's answers to the application's callbacks, which run on a thread of their own: they may take as long
// as they like, and call whatever they like, without holding up the engine.
#pragma once

#include "core/response.h"
#include "core/trace.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace despina {

class Submissions;

// The bytes of an output, wherever they are; `owner` is whatever keeps them there.
struct OutputBytes {
  TensorHandle tensor;
  const void* base = nullptr;
  size_t byte_size = 0;
  std::string copy;        // of small ones, which need no owner
  void* owner = nullptr;
};

// One answer to one request, or the end of it.
struct Answer {
  TRITONSERVER_InferenceRequest* request = nullptr;
  uint64_t ticket = 0;
  bool has_response = false;
  bool final = true;
  bool is_credit = false;           // whoever sent it wants to know when it has been taken
  std::string model_name;
  int64_t model_version = 0;
  std::vector<OutputBytes> outputs;
  Parameters parameters;
  bool failed = false;
  TRITONSERVER_Error_Code code = TRITONSERVER_ERROR_UNKNOWN;
  std::string text;
  std::vector<TraceReport> trace;
};

class Delivery {
 public:
  explicit Delivery(Submissions& back);
  ~Delivery();

  // From the engine's thread. Each answer is delivered exactly once, in this order.
  void put(std::vector<std::unique_ptr<Answer>>&& answers);

  // Delivers what is left, and ends the thread. Blocks; false, and nothing is done, on the thread itself.
  bool finish();

  bool is_this_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

  // The owners of bytes that are needed no longer.
  std::vector<void*> spent_owners();

 private:
  void run();
  void deliver(Answer& answer);

  Submissions& back_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::unique_ptr<Answer>> waiting_;
  std::vector<void*> spent_;
  size_t spent_bytes_ = 0;
  bool wakes_engine_ = false;        // so that it lets go of them; it has been asked to
  bool finishing_ = false;
  std::thread thread_;
};

}  // namespace despina
