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
// The CPUs that this process may run on, in order, wherever OpenMP has bound its first thread.
std::vector<int> affinity();
// Whether OpenMP binds this process's threads, each to a place of its own (OMP_PROC_BIND).
bool openmp_binds();
// The physical cores that these CPUs (hardware threads) belong to, each by its first CPU; a CPU without
// topology is a core of its own.
std::vector<int> cores_of(const std::vector<int>& cpus, const std::string& root = "");
// Level → bytes of all instances on the node, as sysfs lists them.
std::map<int, int64_t> node_caches();
// The second-level data cache of the core that `cpu` is of; 0 where the system does not tell.
int64_t second_cache_bytes(int cpu);
// Of a "KEY:  123 kB" line.
int64_t bytes_of(const std::string& path, const std::string& key);
// What follows reads files under `root`, so that tests can make up a machine.

// What this node's processes may still take: the kernel's estimate, or what a limit on this process's control
// group or any above it leaves (v1 or v2; page cache counts as free).
int64_t available_memory(const std::string& root = "");
// What this process alone may still take under its limits on address space and data (`ulimit -v`, `-d`); the
// largest int64_t without any.
int64_t process_memory_left(const std::string& root = "");
// CPUs' worth of time that the tightest quota on the control group or any above it grants; infinite without
// one.
double cpu_quota(const std::string& root = "");
// Seconds that all CPUs together have worked since boot, for whomever; time stolen by other guests counts.
double busy_seconds(const std::string& root = "");
// cpufreq's governor of a CPU ("performance"); empty where it is not said.
std::string clock_governor(int cpu, const std::string& root = "");
// "on", "off"; empty where it is not said.
std::string turbo(const std::string& root = "");

// Freed memory to the system, for other processes. The C library's allocator keeps blocks that lie below used
// ones, tens of megabytes each where larger ones were freed before.
void give_back_freed();

}  // namespace lamina
