#include "bench/topology.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace lamina {

std::vector<int> domains_of(const std::vector<int>& cpus, const std::vector<Domain>& domains) {
  std::vector<int> ids;
  for (const Domain& domain : domains)
    if (std::any_of(cpus.begin(), cpus.end(),
                    [&](int cpu) { return std::binary_search(domain.cpus.begin(), domain.cpus.end(), cpu); }))
      ids.push_back(domain.id);
  return ids;
}

bool spans(const std::vector<int>& cpus, const std::vector<Domain>& domains) {
  return !domains.empty() && std::none_of(domains.begin(), domains.end(), [&](const Domain& domain) {
    return std::includes(domain.cpus.begin(), domain.cpus.end(), cpus.begin(), cpus.end());
  });
}

std::string cpu_list(const std::vector<int>& cpus) {
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += last == i ? fmt::format("{}", cpus[i]) : fmt::format("{}-{}", cpus[i], cpus[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace lamina
