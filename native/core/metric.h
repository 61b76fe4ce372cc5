// Metric families that applications and plug-ins make. They belong to the process, as the API has no server for them.
#pragma once

#include "core/values.h"

namespace despina {

// All of them in Prometheus' text form.
std::string metrics_text();

}  // namespace despina
