#include "core/log.h"

#include "core/server.h"

#include <atomic>
#include <cstdio>

namespace despina {

namespace {

constexpr uint32_t kAllButVerbose = 0b0111;
std::atomic<uint32_t> log_levels{kAllButVerbose};

}  // namespace

void set_log_levels(uint32_t levels)
{
  log_levels = levels;
}

}  // namespace despina

using namespace despina;

extern "C" {

bool TRITONSERVER_LogIsEnabled(TRITONSERVER_LogLevel level)
{
  return level >= 0 && level <= TRITONSERVER_LOG_VERBOSE && ((log_levels >> level) & 1) != 0;
}

TRITONSERVER_Error* TRITONSERVER_LogMessage(
    TRITONSERVER_LogLevel level, const char* filename, const int line, const char* msg)
{
  return guarded([&] {
    if (level < 0 || level > TRITONSERVER_LOG_VERBOSE) {
      invalid("unknown logging level '" + std::to_string(level) + "'");
    }
    if (!TRITONSERVER_LogIsEnabled(level)) {
      return;
    }
    if (has_hooks()) {
      ask(nullptr, "log", "[" + std::to_string(level) + "," + quoted(filename) + "," + std::to_string(line) + "," +
                              quoted(msg) + "]");
    } else {
      std::fprintf(stderr, "%c %s:%d] %s\n", "IWEI"[level], text_of(filename).c_str(), line, text_of(msg).c_str());
    }
  });
}

}  // extern "C"
