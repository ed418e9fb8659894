// What this node's kernel says about it, under /proc and /sys.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace lamina {

std::string first_line(const std::string& path);
// The value of a "KEY: value" line.
std::string field_of(const std::string& path, const std::string& key);
// The CPUs that this process may run on.
std::vector<int> affinity();
// Level → bytes of all instances on the node, as sysfs lists them.
std::map<int, int64_t> node_caches();
// Of /proc/meminfo.
int64_t kilobytes_of(const std::string& key);
// What this node's ranks may still take: the kernel's estimate, or the control group's limit where that is
// lower.
int64_t available_memory();

}  // namespace lamina
