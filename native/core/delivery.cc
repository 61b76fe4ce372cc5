#include "core/delivery.h"

#include "core/submissions.h"

#include <csignal>
#include <cstring>
#include <iterator>
#include <pthread.h>

namespace despina {

namespace {

constexpr size_t kHeldBytes = 1 << 20;

// Threads of ours take no signals: those are the application's affair.
class SignalsBlocked {
 public:
  SignalsBlocked()
  {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

void allocate(const TRITONSERVER_InferenceRequest& request, Output& output)
{
  TRITONSERVER_ResponseAllocator& allocator = need(request.allocator, "response allocator");
  const char* name = output.tensor->name.c_str();
  TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
  int64_t type_id = 0;
  raise(allocator.allocate(
      &allocator, name, output.byte_size, TRITONSERVER_MEMORY_CPU, 0, request.allocator_userp, &output.base,
      &output.userp, &type, &type_id));
  output.allocated = true;
  output.memory_type = type;
  output.memory_type_id = type_id;
  if (type == TRITONSERVER_MEMORY_GPU) {
    refuse(TRITONSERVER_ERROR_UNSUPPORTED,
           "output '" + output.tensor->name + "': GPU memory was allocated where CPU memory was asked for");
  }
  if (output.base == nullptr && output.byte_size != 0) {
    refuse(TRITONSERVER_ERROR_INTERNAL,
           "failed to allocate buffer of " + std::to_string(output.byte_size) + " bytes for output '" +
               output.tensor->name + "'");
  }
  if (allocator.attributes != nullptr) {
    TRITONSERVER_BufferAttributes attributes;
    attributes.memory_type = type;
    attributes.memory_type_id = type_id;
    attributes.byte_size = output.byte_size;
    raise(allocator.attributes(&allocator, name, &attributes, request.allocator_userp, output.userp));
  }
}

void fill(TRITONSERVER_InferenceResponse& response, const TRITONSERVER_InferenceRequest& request, Answer& answer)
{
  if (request.allocator != nullptr && request.allocator->start != nullptr) {
    raise(request.allocator->start(request.allocator, request.allocator_userp));
  }
  response.outputs.reserve(answer.outputs.size());
  for (OutputBytes& bytes : answer.outputs) {
    response.outputs.emplace_back();
    Output& output = response.outputs.back();
    output.tensor = std::move(bytes.tensor);
    output.byte_size = bytes.byte_size;
    allocate(request, output);
    if (output.byte_size != 0) {
      std::memcpy(output.base, bytes.owner == nullptr ? bytes.copy.data() : bytes.base, output.byte_size);
    }
  }
}

std::unique_ptr<TRITONSERVER_InferenceResponse> response_of(
    const TRITONSERVER_InferenceRequest& request, Answer& answer)
{
  auto response = std::make_unique<TRITONSERVER_InferenceResponse>();
  response->request_id = request.id;
  response->model = request.model;
  response->model_name = answer.model_name.empty() ? request.model_name : answer.model_name;
  response->model_version = answer.model_version;
  response->allocator = request.allocator;
  response->parameters = std::move(answer.parameters);
  Error* error = answer.failed ? make_error(answer.code, answer.text)
                               : guarded([&] { fill(*response, request, answer); });
  if (error != nullptr) {
    response->release_outputs();
    response->error.reset(error == &no_memory ? new Error(no_memory) : error);
  }
  return response;
}

}  // namespace

Delivery::Delivery(Submissions& back) : back_(back)
{
  SignalsBlocked blocked;
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "despina/answers");
}

Delivery::~Delivery()
{
  finish();
}

void Delivery::put(std::vector<std::unique_ptr<Answer>>&& answers)
{
  bool wakes;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    wakes = waiting_.empty();
    std::move(answers.begin(), answers.end(), std::back_inserter(waiting_));
  }
  if (wakes) {
    arrived_.notify_one();
  }
}

bool Delivery::finish()
{
  if (is_this_thread()) {
    return false;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    finishing_ = true;
  }
  arrived_.notify_one();
  if (thread_.joinable()) {
    thread_.join();
  }
  return true;
}

std::vector<void*> Delivery::spent_owners()
{
  std::lock_guard<std::mutex> lock(mutex_);
  spent_bytes_ = 0;
  wakes_engine_ = false;
  return std::exchange(spent_, {});
}

void Delivery::run()
{
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    arrived_.wait(lock, [this] { return finishing_ || !waiting_.empty(); });
    if (waiting_.empty()) {
      return;
    }
    std::deque<std::unique_ptr<Answer>> burst;
    burst.swap(waiting_);
    lock.unlock();
    std::vector<void*> owners;
    size_t held = 0;
    for (std::unique_ptr<Answer>& answer : burst) {
      for (const OutputBytes& bytes : answer->outputs) {
        if (bytes.owner != nullptr) {
          owners.push_back(bytes.owner);
          held += bytes.byte_size;
        }
      }
      deliver(*answer);
      answer.reset();
    }
    lock.lock();
    spent_.insert(spent_.end(), owners.begin(), owners.end());
    spent_bytes_ += held;
    if (spent_bytes_ > kHeldBytes && !wakes_engine_) {
      wakes_engine_ = true;
      back_.push({Event::kWake, nullptr, 0});
    }
  }
}

void Delivery::deliver(Answer& answer)
{
  TRITONSERVER_InferenceRequest* request = answer.request;
  std::unique_ptr<TRITONSERVER_InferenceResponse> response;
  if (answer.has_response) {
    response = response_of(*request, answer);
  }
  if (request->response_fn != nullptr) {
    request->response_fn(
        response.release(), answer.final ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0, request->response_userp);
  }
  if (answer.is_credit) {
    back_.push({Event::kConsumed, nullptr, answer.ticket});
  }
  if (answer.final) {
    if (request->trace != nullptr) {
      report(std::exchange(request->trace, nullptr), answer.trace);
    }
    request->model.reset();
    request->in_flight = false;
    if (request->release_fn != nullptr) {
      request->release_fn(request, TRITONSERVER_REQUEST_RELEASE_ALL, request->release_userp);
    }
  }
}

}  // namespace despina
