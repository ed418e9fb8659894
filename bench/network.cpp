#include "bench/network.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

namespace lamina {
std::optional<std::pair<double, double>> fit_line(const std::vector<std::pair<double, double>>& points) {
  double uu = 0, uv = 0, vv = 0, u_sum = 0, v_sum = 0, least = 0;
  bool differ = false;
  for (const auto& [bytes, us] : points) {
    if (!(us > 0)) continue;
    const double u = 1 / us, v = bytes / us;
    uu += u * u;
    uv += u * v;
    vv += v * v;
    u_sum += u;
    v_sum += v;
    least = least == 0 ? us : std::min(least, us);
    differ = differ || bytes != points.front().first;
  }
  const double determinant = uu * vv - uv * uv;
  if (!differ || !(determinant > 0)) return std::nullopt;
  double alpha = (u_sum * vv - v_sum * uv) / determinant;
  double slope = (v_sum * uu - u_sum * uv) / determinant;
  // Where the best line has a negative part, the best of those that have none lacks that part.
  if (alpha < 0) {
    alpha = 0;
    slope = v_sum / vv;
  } else if (slope <= 0) {
    return std::nullopt;  // larger messages that take no longer say nothing of a bandwidth
  }
  return std::pair(alpha, 1e-3 / slope);
}

std::vector<NetworkLine> fit_networks(std::vector<Record>& records) {
  using Key = std::tuple<std::string, std::string, std::string, std::string, bool, bool, int64_t>;
  std::map<Key, std::vector<Record*>> rows;
  for (Record& record : records) {
    if (record.text("workload") != "collective" || record.text("status") != "ok" ||
        !record.text("payload").empty())
      continue;
    if (record.integer("message_bytes") == 0) continue;  // a call that sends nothing
    rows[{record.text("collective"), record.text("communicator"), record.text("device"), record.text("dtype"),
          record.flag("in_place"), record.flag("graph"), record.integer("ranks")}]
        .push_back(&record);
  }
  std::vector<NetworkLine> lines;
  for (const auto& [key, members] : rows) {
    std::vector<std::pair<double, double>> points;
    for (const Record* record : members)
      points.emplace_back(record->number("message_bytes"), record->number("latency_us_p50"));
    const auto line = fit_line(points);
    if (!line) continue;
    const auto& [collective, communicator, device, dtype, in_place, graph, ranks] = key;
    lines.push_back({collective, communicator, device, dtype, in_place, graph, ranks, line->first,
                     line->second, static_cast<int64_t>(points.size())});
    for (Record* record : members) {
      const double us = line->first + record->number("message_bytes") / (line->second * 1e3);
      record->set("limit_kind", std::string("network"));
      record->set("limit_fraction", us / record->number("latency_us_p50"));
    }
  }
  return lines;
}

void find_payload_wins(std::vector<Record>& records) {
  // Sizes by what is alike, the payload last.
  using Key = std::tuple<std::string, std::string, std::string, bool, bool, int64_t, int64_t, std::string,
                         int64_t, bool>;
  std::map<Key, std::map<int64_t, Record*>> series;
  const auto key = [](const Record& record, bool plain) {
    return Key{record.text("communicator"),
               record.text("device"),
               record.text("dtype"),
               record.flag("in_place"),
               record.flag("graph"),
               record.integer("ranks"),
               record.integer("threads"),
               plain ? "" : record.text("payload"),
               plain ? 0 : record.integer("payload_block"),
               !plain && record.flag("error_feedback")};
  };
  for (Record& record : records)
    if (record.text("collective") == "all_reduce" && record.text("status") == "ok")
      series[key(record, false)][record.integer("message_bytes")] = &record;
  for (auto& [own, sizes] : series) {
    const auto plain = series.find(key(*sizes.begin()->second, true));
    if (std::get<7>(own).empty() || plain == series.end()) continue;
    int64_t from = 0;
    for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
      const auto beside = plain->second.find(size->first);
      if (beside == plain->second.end()) continue;
      if (!(size->second->number("latency_us_p50") < beside->second->number("latency_us_p50"))) break;
      from = size->first;
    }
    for (auto& [bytes, record] : sizes)
      if (from > 0) record->set("payload_wins_from_bytes", from);
  }
}

}  // namespace lamina
