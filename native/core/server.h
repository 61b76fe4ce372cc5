// One server: what of it is on this side.
#pragma once

#include "core/delivery.h"
#include "core/models.h"
#include "core/submissions.h"

struct TRITONSERVER_ServerOptions {
  std::string json;          // [["SetServerId", "x"], ...] without its brackets
};

struct TRITONSERVER_Server {
  TRITONSERVER_Server();

  // Asks Python. Raises what it answers with, else gives its text.
  std::string call(const char* operation, const std::string& arguments);

  despina::Models models;
  despina::Submissions submissions;
  despina::Delivery delivery;
  const int process;         // which of this program's forks it was made in
};

namespace despina {

// Refuses what is no server, and one that a parent of this process has made: its threads are not here.
void alive(TRITONSERVER_Server* server);

// Makes sure that there is an interpreter with the engine in it. Raises Unavailable.
void boot();

// Asks Python about something that is no server's. Raises what it answers with.
std::string ask(const void* object, const char* operation, const std::string& arguments);

// Collects the arguments of an option.
class OptionNote {
 public:
  OptionNote(TRITONSERVER_ServerOptions& options, const char* name) : options_(options)
  {
    text_ = std::string(options.json.empty() ? "" : ",") + "[" + quoted(name);
  }
  ~OptionNote() { options_.json += text_ + "]"; }
  OptionNote(const OptionNote&) = delete;
  OptionNote& operator=(const OptionNote&) = delete;

  void add(const char* text) { text_ += "," + quoted(text); }
  void add(bool value) { text_ += value ? ",true" : ",false"; }
  template <class Number>
  void add(Number value)
  {
    text_ += "," + std::to_string(value);
  }

 private:
  TRITONSERVER_ServerOptions& options_;
  std::string text_;
};

}  // namespace despina
