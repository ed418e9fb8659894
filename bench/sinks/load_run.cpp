// A run's folder, read back for export.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "bench/peer_rows.hpp"
#include "bench/sinks/sink.hpp"
#include "kernels/json.hpp"

namespace lamina {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string text_at(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// What an export says about the machine; a run without it is still a run.
void read_environment(const fs::path& path, RunRows& run) {
  Problems problems;
  const Json environment = parse_strict_json(read_text_file(path.string()), problems);
  if (!problems.empty()) throw std::runtime_error(path.string() + ": " + problems.items().front().message);
  if (!environment.is_object()) throw std::runtime_error(path.string() + ": expected an object");
  const auto launches = environment.find("launches");
  if (launches != environment.end() && launches->is_array() && !launches->empty()) {
    const Json& first = launches->front();
    if (first.is_object()) run.date = text_at(first, "started");
  }
  const auto program = environment.find("lamina");
  if (program != environment.end() && program->is_object()) run.commit = text_at(*program, "commit");
  const auto machine = environment.find("machine");
  if (machine == environment.end() || !machine->is_object()) return;
  run.machine = text_at(*machine, "host");
  run.cpu = text_at(*machine, "cpu");
  // Of a GPU's row the processor says little. Its name ends at the first comma.
  const auto gpus = machine->find("cuda");
  if (gpus != machine->end() && gpus->is_array() && !gpus->empty() && gpus->front().is_string()) {
    const std::string gpu = gpus->front().get<std::string>();
    run.cpu += (run.cpu.empty() ? "" : ", ") + gpu.substr(0, gpu.find(','));
  }
  const auto cores = machine->find("cores");
  if (cores != machine->end() && cores->is_number_integer()) run.cores = cores->get<int64_t>();
}

}  // namespace

RunRows load_run(const std::string& path, std::string* warning) {
  const bool is_folder = fs::is_directory(path);
  const fs::path records = is_folder ? fs::path(path) / "records.jsonl" : fs::path(path);
  if (is_folder && !fs::exists(records)) {
    throw std::runtime_error(path + ": expected a run's folder, found one without records.jsonl");
  }
  RunRows run;
  // The folder's name, also for "." and "runs/one/".
  const fs::path folder = fs::absolute(records).lexically_normal().parent_path();
  run.name = folder.filename().string();
  run.records = last_of_each_case(read_records(records.string(), warning));
  compare_rows(run.records);
  const fs::path environment = records.parent_path() / "environment.json";
  if (!fs::exists(environment)) return run;
  try {
    read_environment(environment, run);
  } catch (const std::runtime_error& error) {
    if (warning != nullptr) *warning += (warning->empty() ? "" : "; ") + std::string(error.what());
  }
  return run;
}

}  // namespace lamina
