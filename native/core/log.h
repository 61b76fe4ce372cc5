// Log lines of applications and plug-ins.
#pragma once

#include "core/base.h"

#include <cstdint>

namespace despina {

// A bit for each TRITONSERVER_LogLevel that is written now.
void set_log_levels(uint32_t levels);

bool has_hooks();

}  // namespace despina
