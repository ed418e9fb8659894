#include "bench/environment.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>

#include "bench/node.hpp"
#include "distributed/scalapack.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

std::string blas_version() {
  if (auto* config = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_config"))) {
    std::string text = config();
    if (auto* core = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_corename")))
      text += fmt::format(" [{}]", core());
    return text;
  }
  if (dlsym(RTLD_DEFAULT, "MKL_Get_Version") != nullptr) return "Intel MKL";
  if (dlsym(RTLD_DEFAULT, "bli_info_get_version_str") != nullptr) return "BLIS";
  return "unnamed BLAS";
}

// The file that a symbol comes from, links resolved: libscalapack-openmpi.so.2.2.1. Such names tell more than
// what ScaLAPACK says of itself, which its 2.2.1 calls 2.0.2.
std::string file_of(const char* symbol) {
  Dl_info info{};
  void* address = dlsym(RTLD_DEFAULT, symbol);
  if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr)
    return "of unknown version";
  std::error_code error;
  const std::filesystem::path file = std::filesystem::canonical(info.dli_fname, error);
  return error ? info.dli_fname : file.filename().string();
}

Json text_or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

Json domains_json(const std::vector<Domain>& domains) {
  Json list = Json::array();
  for (const Domain& domain : domains) {
    Json one = {{"id", domain.id}};
    if (domain.bytes > 0) one["bytes"] = domain.bytes;
    one["cpus"] = cpu_list(domain.cpus);
    list.push_back(one);
  }
  return list;
}

// What was set of the variables that choose instruction sets, threads and their places, and how messages
// move: mpirun --mca and what is set outside come to every rank in its environment.
Json variables() {
  constexpr const char* kPrefixes[] = {"LAMINA_ALL_REDUCE",
                                       "LAMINA_CACHE_BYTES",
                                       "LAMINA_FORCE_CLOCK_START",
                                       "LAMINA_ISA",
                                       "LAMINA_OVERLAP_MULTIPROCESSORS",
                                       "LAMINA_SHM_WINDOW_KIB",
                                       "BLIS_",
                                       "CUDA_VISIBLE_DEVICES",
                                       "FI_",
                                       "GOMP_",
                                       "I_MPI_",
                                       "KMP_",
                                       "LIBXSMM_",
                                       "MKL_",
                                       "MPIR_CVAR_",
                                       "NCCL_",
                                       "OMPI_MCA_btl",
                                       "OMPI_MCA_coll",
                                       "OMPI_MCA_mpi_",
                                       "OMPI_MCA_mtl",
                                       "OMPI_MCA_osc",
                                       "OMPI_MCA_pml",
                                       "OMP_",
                                       "ONEDNN_",
                                       "OPENBLAS_",
                                       "UCX_"};
  Json set = Json::object();
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals == text.npos) continue;
    const std::string_view name = text.substr(0, equals);
    if (std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                    [&](const char* prefix) { return name.starts_with(prefix); }))
      set[std::string(name)] = std::string(text.substr(equals + 1));
  }
  return set;
}

Json topology_json(const Topology& topology) {
  if (!topology.absent.empty()) return topology.absent;
  return {{"source", topology.source},
          {"sockets", domains_json(topology.sockets)},
          {"numa_nodes", domains_json(topology.numa_nodes)},
          {"l3_caches", domains_json(topology.l3_caches)}};
}

}  // namespace

std::vector<OptionalLibrary> optional_libraries() {
  std::vector<OptionalLibrary> list = {{"scalapack", "", svd::scalapack_absent()},
                                       {"elpa", "", svd::elpa_absent()}};
  if (list[0].absent.empty()) list[0].version = file_of("pdgesvd_");
  if (list[1].absent.empty()) list[1].version = file_of("elpa_allocate");
  return list;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string fresh_run_folder(const std::string& name) {
  std::string stamp = utc_now();
  std::erase_if(stamp, [](char c) { return c == '-' || c == ':'; });
  const std::string first = "runs/" + name + "-" + stamp;
  std::string folder = first;
  for (int i = 2; std::filesystem::exists(folder); ++i) folder = fmt::format("{}-{}", first, i);
  return folder;
}

std::string commit() {
  return
#include "commit.inc"
      ;
}

std::string environment_text(const Config& config, const Machine& machine, const Registry& registry,
                             Communicator& world, const std::string& run_id, const std::string& launch_id,
                             const std::string& started, const std::vector<std::string>& command_line,
                             const std::vector<CeilingValues>& ceilings,
                             const std::vector<NetworkLine>& networks, const std::string& previous) {
  Json root;
  if (!previous.empty()) root = Json::parse(previous, nullptr, false);
  if (!root.is_object()) root = Json::object();
  root["schema_version"] = 1;
  root["run_id"] = run_id;
  root["lamina"] = {{"version", LAMINA_VERSION},
                    {"commit", commit()},
                    {"build_type", LAMINA_BUILD_TYPE},
                    {"compiler", LAMINA_COMPILER}};
  utsname system{};
  uname(&system);
  Json caches = Json::array();
  for (const auto& [level, bytes] : node_caches())
    caches.push_back({{"level", level}, {"bytes_of_all", bytes}});
  std::string isa;
  for (const Kernel* kernel : registry.kernels("cpu"))
    if (kernel->name == "native") isa = kernel->isa;
  root["machine"] = {{"host", machine.places.front().host},
                     {"cpu", field_of("/proc/cpuinfo", "model name")},
                     {"cores", machine.launch.cores},
                     {"isa", isa},
                     {"caches", caches},
                     {"topology", topology_json(machine.topology)},
                     {"clock_governor", text_or_null(machine.places.front().governor)},
                     {"turbo", text_or_null(turbo())},
                     {"memory_bytes", bytes_of("/proc/meminfo", "MemTotal")},
                     {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)},
                     {"distribution", field_of("/etc/os-release", "PRETTY_NAME")}};
  // os-release separates with '=' rather than ':'.
  std::ifstream release("/etc/os-release");
  for (std::string line; std::getline(release, line);)
    if (line.starts_with("PRETTY_NAME=")) root["machine"]["distribution"] = line.substr(13, line.size() - 14);
  for (const DeviceInfo& device : registry.devices())
    if (device.type != "cpu")
      root["machine"][device.type] = device.available ? Json(device.units) : Json(device.reason);
  root["libraries"] = {{"mpi", Launch::library()}, {"blas", blas_version()}};
  for (const DeviceInfo& device : registry.devices())
    for (const auto& [name, version] : device.software) root["libraries"][name] = version;
  for (const OptionalLibrary& library : optional_libraries()) {
    root["libraries"][library.name] = library.absent.empty() ? library.version : "absent: " + library.absent;
  }
  root["config"] = Json::parse(config.text, nullptr, false);
  root["config_digest"] = config.digest;
  Json launch = {{"launch_id", launch_id},      {"started", started},
                 {"written", utc_now()},        {"command", command_line},
                 {"ranks", world.size()},       {"nodes", world.nodes()},
                 {"variables", variables()},    {"threads", machine.launch.default_threads},
                 {"warnings", machine.warnings}};
  Json places = Json::array();
  for (const RankPlace& place : machine.places)
    places.push_back({{"host", place.host},
                      {"cpus", place.cpus},
                      {"sockets", place.sockets},
                      {"numa_nodes", place.numa_nodes}});
  launch["binding"] = places;
  Json limits = Json::array();
  for (const CeilingValues& values : ceilings) {
    Json read = Json::object();
    for (const auto& [threads, rate] : values.read_gb_per_s) read[std::to_string(threads)] = rate;
    limits.push_back({{"device", values.device},
                      {"ranks", values.ranks},
                      {"threads", values.threads},
                      {"read_gb_per_s_by_threads", read},
                      {"fp32_gflops", values.gops[Arithmetic::f32]},
                      {"bf16_gflops", values.gops[Arithmetic::bf16]},
                      {"int8_gops", values.gops[Arithmetic::int8]},
                      {"int4_gops", values.gops[Arithmetic::int4]},
                      {"int8_24_gops", values.gops[Arithmetic::int8_24]},
                      {"fp8_gflops", values.gops[Arithmetic::fp8]},
                      {"copy_gb_per_s", values.copy_gb_per_s},
                      {"launch_us", values.launch_us},
                      {"communicator", text_or_null(values.communicator)},
                      {"all_reduce_latency_us", values.all_reduce_latency_us},
                      {"all_reduce_gb_per_s", values.all_reduce_gb_per_s},
                      {"fp32_drift", values.drift}});
  }
  launch["ceilings"] = limits;
  Json lines = Json::array();
  for (const NetworkLine& line : networks)
    lines.push_back({{"collective", line.collective},
                     {"communicator", line.communicator},
                     {"device", line.device},
                     {"dtype", line.dtype},
                     {"in_place", line.in_place},
                     {"graph", line.graph},
                     {"ranks", line.ranks},
                     {"alpha_us", line.alpha_us},
                     {"beta_gb_per_s", line.beta_gb_per_s},
                     {"points", line.points}});
  launch["networks"] = lines;
  Json& launches = root["launches"];
  if (!launches.is_array()) launches = Json::array();
  Json kept = Json::array();
  for (const Json& one : launches)
    if (one.value("launch_id", "") != launch_id) kept.push_back(one);
  kept.push_back(launch);
  launches = kept;
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace lamina
