// What of outboxes and of what ends is needed on both sides: in the library and in the extension module.
#pragma once

#include "backend/backend.h"

#include <chrono>

namespace despina {

constexpr size_t kLateMax = 256;

inline std::vector<Told> Outbox::collect()
{
  std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(collected_, {});
}

inline std::vector<Told> Outbox::collect(std::vector<void*>& spent)
{
  std::lock_guard<std::mutex> lock(mutex_);
  spent = std::exchange(spent_, {});
  return std::exchange(collected_, {});
}

inline void Outbox::let_be_late(const std::vector<FlightHandle>& flights)
{
  std::lock_guard<std::mutex> lock(mutex_);
  for (const FlightHandle& flight : flights) {
    flight->late = true;
  }
}

inline std::vector<Told> Outbox::wait(unsigned milliseconds)
{
  std::unique_lock<std::mutex> lock(mutex_);
  arrived_.wait_for(lock, std::chrono::milliseconds(milliseconds), [this] { return closed_ || !late_.empty(); });
  std::vector<Told> taken(std::make_move_iterator(late_.begin()), std::make_move_iterator(late_.end()));
  late_.clear();
  room_.notify_all();
  return taken;
}

inline void Outbox::close()
{
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  arrived_.notify_all();
  room_.notify_all();
}

inline void Outbox::tell(Flight& flight, Told&& told)
{
  std::unique_lock<std::mutex> lock(mutex_);
  if (flight.decoupled || flight.late || told.kind == Told::kWatch) {
    if (told.kind == Told::kAnswer && !told.final) {
      room_.wait(lock, [this] { return closed_ || late_.size() < kLateMax; });
    }
    late_.push_back(std::move(told));
    arrived_.notify_one();
  } else {
    collected_.push_back(std::move(told));
  }
}

inline void Outbox::enter()
{
  std::lock_guard<std::mutex> lock(mutex_);
  ++requests_;
}

inline void Outbox::leave(const std::list<TRITONBACKEND_Input>& inputs)
{
  std::lock_guard<std::mutex> lock(mutex_);
  for (const TRITONBACKEND_Input& input : inputs) {
    if (input.owner != nullptr) {
      spent_.push_back(input.owner);
    }
  }
  if (--requests_ == 0) {
    left_.notify_all();
  }
}

inline void Outbox::until_left()
{
  std::unique_lock<std::mutex> lock(mutex_);
  left_.wait(lock, [this] { return requests_ == 0; });
}

inline std::vector<void*> Outbox::spent()
{
  std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(spent_, {});
}

inline Flight::~Flight()
{
  if (!ended) {  // nobody is left who could answer it
    try {
      auto response = std::make_unique<TRITONBACKEND_Response>();
      response->failed = true;
      response->code = TRITONSERVER_ERROR_INTERNAL;
      response->text = "the backend let go of the request without a final response";
      outbox->tell(*this, {Told::kAnswer, tag, true, std::move(response), nullptr});
    } catch (...) {  // no memory for it: the engine's own deadline ends the request
    }
  }
}

}  // namespace despina

inline TRITONBACKEND_Request::TRITONBACKEND_Request(despina::FlightHandle given) : flight(std::move(given))
{
  flight->outbox->enter();
}

inline TRITONBACKEND_Request::~TRITONBACKEND_Request()
{
  flight->outbox->leave(inputs);
}
