#include "core/metric.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <set>

using namespace despina;

namespace despina {

struct Series {
  std::string labels;                 // as the page shows them, without braces
  double value = 0;
  std::vector<double> bounds;
  std::vector<uint64_t> counts;       // one more than bounds
  int holders = 0;
};

struct Family {
  TRITONSERVER_MetricKind kind;
  std::string name;
  std::string text;
  int holders = 0;
  std::map<std::string, Series> series;
};

namespace {

std::mutex metrics_mutex;             // one for all: what is held under it takes less than a microsecond
std::map<std::string, std::unique_ptr<Family>> families;

const char* word_of(TRITONSERVER_MetricKind kind)
{
  static const char* const words[] = {"counter", "gauge", "histogram"};
  return words[kind];
}

std::string constant_of(TRITONSERVER_MetricKind kind)
{
  static const char* const words[] = {"COUNTER", "GAUGE", "HISTOGRAM"};
  return std::string("TRITONSERVER_METRIC_KIND_") + words[kind];
}

bool is_name(const std::string& text, bool is_label)
{
  const auto fits = [&](char letter, bool first) {
    return std::isalpha(static_cast<unsigned char>(letter)) || letter == '_' || (!is_label && letter == ':') ||
           (!first && std::isdigit(static_cast<unsigned char>(letter)));
  };
  bool first = true;
  for (const char letter : text) {
    if (!fits(letter, first)) {
      return false;
    }
    first = false;
  }
  return !text.empty() && !(is_label && text.rfind("__", 0) == 0);
}

std::string escaped(const std::string& text)
{
  std::string written;
  for (const char letter : text) {
    if (letter == '\n') {
      written += "\\n";
    } else {
      if (letter == '"' || letter == '\\') {
        written += '\\';
      }
      written += letter;
    }
  }
  return written;
}

std::string number(double value)
{
  if (std::isinf(value)) {
    return value > 0 ? "+Inf" : "-Inf";
  }
  char text[64];
  if (value == std::floor(value) && std::fabs(value) < 1e15) {
    std::snprintf(text, sizeof text, "%.0f", value);
  } else {
    std::snprintf(text, sizeof text, "%.17g", value);
  }
  return text;
}

std::string labels_of(const TRITONSERVER_Parameter** labels, uint64_t count)
{
  std::map<std::string, std::string> sorted;
  for (uint64_t index = 0; index < count; ++index) {
    const Parameter& label = need(labels[index], "label");
    if (label.type != TRITONSERVER_PARAMETER_STRING) {
      invalid("Parameter [" + label.name + "] must have a type of TRITONSERVER_PARAMETER_STRING to be added as a label.");
    }
    if (!is_name(label.name, true)) {
      invalid("Invalid label name");
    }
    sorted[label.name] = label.text;
  }
  std::string text;
  for (const auto& [name, value] : sorted) {
    text += (text.empty() ? "" : ",") + name + "=\"" + escaped(value) + "\"";
  }
  return text;
}

void write_series(std::string& page, const Family& family, const Series& series)
{
  const auto line = [&](const std::string& suffix, const std::string& more, const std::string& value) {
    std::string labels = series.labels;
    if (!more.empty()) {
      labels += (labels.empty() ? "" : ",") + more;
    }
    page += family.name + suffix + (labels.empty() ? "" : "{" + labels + "}") + " " + value + "\n";
  };
  if (family.kind != TRITONSERVER_METRIC_KIND_HISTOGRAM) {
    line("", "", number(series.value));
    return;
  }
  uint64_t below = 0;
  for (size_t place = 0; place < series.counts.size(); ++place) {
    below += series.counts[place];
    const std::string bound = place < series.bounds.size() ? number(series.bounds[place]) : "+Inf";
    line("_bucket", "le=\"" + bound + "\"", std::to_string(below));
  }
  line("_count", "", std::to_string(below));
  line("_sum", "", number(series.value));
}

}  // namespace

std::string metrics_text()
{
  std::lock_guard<std::mutex> lock(metrics_mutex);
  std::string page;
  for (const auto& [name, family] : families) {
    if (!family->series.empty()) {
      page += "# HELP " + name + " " + escaped(family->text) + "\n# TYPE " + name + " " + word_of(family->kind) + "\n";
      for (const auto& [labels, series] : family->series) {
        write_series(page, *family, series);
      }
    }
  }
  return page;
}

}  // namespace despina

struct TRITONSERVER_MetricFamily {
  Family* family;
  std::set<TRITONSERVER_Metric*> metrics;   // made by it, and not deleted yet
};

struct TRITONSERVER_Metric {
  TRITONSERVER_MetricFamily* owner;         // null once that is gone: the metric is then of no use
  Series* series;
  TRITONSERVER_MetricKind kind;
};

struct TRITONSERVER_MetricArgs {
  bool is_histogram = false;
  std::vector<double> bounds;
};

namespace {

void let_go(Family& family, const Series& series)
{
  Series& found = family.series.at(series.labels);
  if (--found.holders == 0) {
    family.series.erase(found.labels);
  }
}

void new_metric(
    TRITONSERVER_Metric** metric, TRITONSERVER_MetricFamily* owner, const TRITONSERVER_Parameter** labels,
    uint64_t label_count, const TRITONSERVER_MetricArgs* args)
{
  std::lock_guard<std::mutex> lock(metrics_mutex);
  Family& family = *need(owner, "metric family").family;
  const bool is_histogram = family.kind == TRITONSERVER_METRIC_KIND_HISTOGRAM;
  if (is_histogram && (args == nullptr || !args->is_histogram)) {
    invalid("Bucket boundaries not found in Metric args.");
  }
  if (!is_histogram && args != nullptr && args->is_histogram) {
    invalid(std::string("Unexpected args found in ") + word_of(family.kind) + " Metric constructor.");
  }
  const std::string text = labels_of(labels, label_count);
  auto made = std::make_unique<TRITONSERVER_Metric>();
  Series& series = family.series[text];
  if (series.holders == 0) {
    series.labels = text;
    if (is_histogram) {
      series.bounds = args->bounds;
      series.counts.resize(args->bounds.size() + 1);
    }
  }
  ++series.holders;
  *made = {owner, &series, family.kind};
  owner->metrics.insert(made.get());
  *metric = made.release();
}

// What `what` may be done with it. Raises for kinds that do not do it.
Series& usable(TRITONSERVER_Metric* metric, const char* what, const char* doing, uint32_t kinds)
{
  TRITONSERVER_Metric& found = need(metric, "metric");
  if (found.owner == nullptr) {
    refuse(TRITONSERVER_ERROR_INTERNAL,
           std::string("Could not ") + doing + " metric value. Metric has been invalidated.");
  }
  if (((kinds >> found.kind) & 1) == 0) {
    refuse(TRITONSERVER_ERROR_UNSUPPORTED, constant_of(found.kind) + " does not support " + what);
  }
  return *found.series;
}

constexpr uint32_t kCounter = 1, kGauge = 2, kHistogram = 4;

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONSERVER_MetricFamilyNew(
    TRITONSERVER_MetricFamily** family, const TRITONSERVER_MetricKind kind, const char* name, const char* description)
{
  return guarded([&] {
    const std::string wanted = text_of(name);
    if (kind < 0 || kind > TRITONSERVER_METRIC_KIND_HISTOGRAM) {
      invalid("Unknown metric kind");
    }
    if (!is_name(wanted, false)) {
      invalid("Invalid metric name");
    }
    std::lock_guard<std::mutex> lock(metrics_mutex);
    std::unique_ptr<Family>& found = families[wanted];
    if (found == nullptr) {
      found.reset(new Family{kind, wanted, text_of(description), 0, {}});
    }
    if (found->kind != kind) {
      invalid("Family name already exists with different type");
    }
    auto made = std::make_unique<TRITONSERVER_MetricFamily>();
    made->family = found.get();
    ++found->holders;
    *family = made.release();
  });
}

TRITONSERVER_Error* TRITONSERVER_MetricFamilyDelete(TRITONSERVER_MetricFamily* family)
{
  return guarded([&] {
    if (family == nullptr) {
      return;
    }
    std::lock_guard<std::mutex> lock(metrics_mutex);
    const std::unique_ptr<TRITONSERVER_MetricFamily> gone(family);
    for (TRITONSERVER_Metric* metric : gone->metrics) {
      let_go(*gone->family, *metric->series);
      metric->owner = nullptr;
    }
    if (--gone->family->holders == 0) {
      families.erase(std::string(gone->family->name));
    }
  });
}

TRITONSERVER_Error* TRITONSERVER_GetMetricFamilyKind(
    TRITONSERVER_MetricFamily* family, TRITONSERVER_MetricKind* kind)
{
  return guarded([&] { *kind = need(family, "metric family").family->kind; });
}

TRITONSERVER_Error* TRITONSERVER_MetricArgsNew(TRITONSERVER_MetricArgs** args)
{
  return guarded([&] { *args = new TRITONSERVER_MetricArgs; });
}

TRITONSERVER_Error* TRITONSERVER_MetricArgsSetHistogram(
    TRITONSERVER_MetricArgs* args, const double* buckets, const uint64_t buckets_count)
{
  return guarded([&] {
    TRITONSERVER_MetricArgs& given = need(args, "metric args");
    std::vector<double> bounds(buckets, buckets + buckets_count);
    if (std::adjacent_find(bounds.begin(), bounds.end(), [](double a, double b) { return !(a < b); }) != bounds.end()) {
      invalid("Bucket Boundaries must be strictly sorted");
    }
    given.is_histogram = true;
    given.bounds = std::move(bounds);
  });
}

TRITONSERVER_Error* TRITONSERVER_MetricArgsDelete(TRITONSERVER_MetricArgs* args)
{
  delete args;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricNew(
    TRITONSERVER_Metric** metric, TRITONSERVER_MetricFamily* family, const TRITONSERVER_Parameter** labels,
    const uint64_t label_count)
{
  return guarded([&] { new_metric(metric, family, labels, label_count, nullptr); });
}

TRITONSERVER_Error* TRITONSERVER_MetricNewWithArgs(
    TRITONSERVER_Metric** metric, TRITONSERVER_MetricFamily* family, const TRITONSERVER_Parameter** labels,
    const uint64_t label_count, const TRITONSERVER_MetricArgs* args)
{
  return guarded([&] { new_metric(metric, family, labels, label_count, args); });
}

TRITONSERVER_Error* TRITONSERVER_MetricDelete(TRITONSERVER_Metric* metric)
{
  return guarded([&] {
    if (metric == nullptr) {
      return;
    }
    std::lock_guard<std::mutex> lock(metrics_mutex);
    if (metric->owner != nullptr) {
      let_go(*metric->owner->family, *metric->series);
      metric->owner->metrics.erase(metric);
    }
    delete metric;
  });
}

TRITONSERVER_Error* TRITONSERVER_MetricValue(TRITONSERVER_Metric* metric, double* value)
{
  return guarded([&] {
    std::lock_guard<std::mutex> lock(metrics_mutex);
    *value = usable(metric, "Value", "get", kCounter | kGauge).value;
  });
}

TRITONSERVER_Error* TRITONSERVER_MetricIncrement(TRITONSERVER_Metric* metric, double value)
{
  return guarded([&] {
    std::lock_guard<std::mutex> lock(metrics_mutex);
    Series& series = usable(metric, "Increment", "increment", kCounter | kGauge);
    if (metric->kind == TRITONSERVER_METRIC_KIND_COUNTER && value < 0) {
      invalid("TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values.");
    }
    series.value += value;
  });
}

TRITONSERVER_Error* TRITONSERVER_MetricSet(TRITONSERVER_Metric* metric, double value)
{
  return guarded([&] {
    std::lock_guard<std::mutex> lock(metrics_mutex);
    usable(metric, "Set", "set", kGauge).value = value;
  });
}

TRITONSERVER_Error* TRITONSERVER_MetricObserve(TRITONSERVER_Metric* metric, double value)
{
  return guarded([&] {
    std::lock_guard<std::mutex> lock(metrics_mutex);
    Series& series = usable(metric, "Observe", "observe", kHistogram);
    const auto place = std::lower_bound(series.bounds.begin(), series.bounds.end(), value) - series.bounds.begin();
    ++series.counts[static_cast<size_t>(place)];
    series.value += value;
  });
}

TRITONSERVER_Error* TRITONSERVER_GetMetricKind(TRITONSERVER_Metric* metric, TRITONSERVER_MetricKind* kind)
{
  return guarded([&] { *kind = need(metric, "metric").kind; });
}

}  // extern "C"
