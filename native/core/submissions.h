// What applications' threads hand to the engine's: a queue, and an eventfd that is readable while something waits.
#pragma once

#include "core/base.h"

#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

struct TRITONSERVER_InferenceRequest;

namespace despina {

struct Event {
  enum Kind { kInfer, kCancel, kConsumed, kWake };
  Kind kind;
  TRITONSERVER_InferenceRequest* request;  // of kInfer; others go by the ticket, for it may be gone
  uint64_t ticket;
};

class Submissions {
 public:
  Submissions();
  ~Submissions();
  Submissions(const Submissions&) = delete;
  Submissions& operator=(const Submissions&) = delete;

  int fd() const { return fd_; }

  // From any thread; never blocks. False once it is closed.
  bool push(const Event& event);

  // At most `most` of those that wait, oldest first.
  std::vector<Event> pop(size_t most);

  void close();

 private:
  const int fd_;
  std::mutex mutex_;
  std::deque<Event> waiting_;
  bool signalled_ = false;
  bool closed_ = false;
};

}  // namespace despina
