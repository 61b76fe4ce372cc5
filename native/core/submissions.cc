#include "core/submissions.h"

#include <algorithm>
#include <sys/eventfd.h>
#include <unistd.h>

namespace despina {

Submissions::Submissions() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC))
{
  if (fd_ < 0) {
    refuse(TRITONSERVER_ERROR_INTERNAL, "no eventfd: too many open files");
  }
}

Submissions::~Submissions()
{
  ::close(fd_);
}

bool Submissions::push(const Event& event)
{
  bool rings;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) {
      return false;
    }
    waiting_.push_back(event);
    rings = !signalled_;
    signalled_ = true;
  }
  if (rings) {
    const uint64_t one = 1;
    (void)!write(fd_, &one, sizeof one);
  }
  return true;
}

std::vector<Event> Submissions::pop(size_t most)
{
  std::lock_guard<std::mutex> lock(mutex_);
  const size_t count = std::min(most, waiting_.size());
  std::vector<Event> taken(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(count));
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(count));
  if (waiting_.empty() && signalled_) {
    uint64_t rung;
    if (read(fd_, &rung, sizeof rung) == sizeof rung) {
      signalled_ = false;
    }
  }
  return taken;
}

void Submissions::close()
{
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
}

}  // namespace despina
