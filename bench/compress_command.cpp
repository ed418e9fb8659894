#include "bench/compress_command.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include "bench/compressed_file.hpp"
#include "bench/expansion.hpp"
#include "bench/machine.hpp"
#include "bench/runner.hpp"
#include "bench/text.hpp"
#include "bench/weight_store.hpp"
#include "bench/workloads/placement.hpp"
#include "distributed/agree.hpp"
#include "kernels/json.hpp"
#include "kernels/weights/safetensors_file.hpp"

namespace lamina {
namespace {

// One matrix of the file, and what becomes of it.
struct Job {
  LayerRef ref;
  std::unique_ptr<Scheme> scheme;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char each : text) {
    if (each == separator)
      parts.emplace_back();
    else
      parts.back() += each;
  }
  return parts;
}

// The matrices of a file, in its header's order of names.
std::vector<std::string> matrices_of(const std::string& path) {
  std::vector<std::string> names;
  const SafetensorsFile file(path);
  for (const auto& [name, info] : file.tensors()) {
    const bool real = info.dtype == "F32" || info.dtype == "F16" || info.dtype == "BF16";
    if (real && info.shape.size() == 2) names.push_back(name);
  }
  if (names.empty()) throw std::runtime_error(path + ": expected a matrix of F32, F16 or BF16, found none");
  return names;
}

std::shared_ptr<Params> read_scheme_text(const std::string& text, Problems& problems) {
  nlohmann::ordered_json json = {{"type", text}};
  if (text.starts_with("{")) json = parse_strict_json(text, problems);
  if (!problems.empty()) return nullptr;
  const Expansion expansion(json, "", "", problems);
  if (!problems.empty()) return nullptr;
  if (expansion.count() != 1) {
    problems.add("", fmt::format("expected one scheme, found lists that make {}", expansion.count()));
    return nullptr;
  }
  return std::get<std::shared_ptr<Params>>(expansion.value(0, &problems));
}

// What to do, or in `problems` why not.
std::vector<Job> read_jobs(const CompressOptions& options, const Registry& registry, Problems& problems) {
  std::vector<Job> jobs;
  try {
    std::vector<std::string> entries = options.tensors;
    if (entries.empty()) entries = matrices_of(options.model_path);
    for (size_t i = 0; i < entries.size(); ++i) {
      const std::string& entry = entries[i];
      if (std::find(entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(i), entry) !=
          entries.begin() + static_cast<std::ptrdiff_t>(i)) {
        problems.add("--tensor", fmt::format("expected each tensor once, found \"{}\" again", entry));
        continue;
      }
      Job job;
      job.ref.weights = options.model_path;
      job.ref.tensors = split(entry, ',');
      job.ref.seed = static_cast<uint64_t>(options.seed);
      job.ref.shape = open_safetensors(options.model_path, job.ref.tensors)->shape();
      // As `run` calls a layer that is given by its sizes: the same synthetic inputs.
      job.ref.label = fmt::format("{}x{}", job.ref.shape.in_features, job.ref.shape.out_features);
      job.ref.inputs = options.inputs;
      job.ref.cotangents = options.cotangents;
      job.ref.inputs_tensor = job.ref.cotangents_tensor = job.ref.tensors.front();
      Problems own;
      const auto params = read_scheme_text(options.scheme, own);
      if (params != nullptr) job.scheme = make_scheme(*params, job.ref.shape, registry);
      for (const Problem& problem : own.items())
        problems.add("--scheme " + problem.pointer,
                     problem.message + (params == nullptr ? "" : fmt::format(" (tensor \"{}\")", entry)));
      if (job.scheme != nullptr && own.empty() && job.scheme->name().starts_with("dense"))
        problems.add("--scheme",
                     fmt::format("expected one that compresses, found {}: `run` reads it from the original",
                                 job.scheme->name()));
      else if (job.scheme != nullptr && own.empty()) {
        job.ref.check_recorded(job.scheme->calibration_tokens(), 0);
        jobs.push_back(std::move(job));
      }
    }
  } catch (const std::exception& error) {
    problems.add("", error.what());
  }
  return jobs;
}

bool report(const Problems& problems, Communicator& world) {
  std::string text;
  for (const Problem& one : problems.items())
    text += fmt::format("{}lamina: {}{}{}", text.empty() ? "" : "\n", one.pointer,
                        one.pointer.empty() ? "" : ": ", one.message);
  const Agreement agreement = world.agree(text);
  if (agreement.ok) return false;
  if (world.rank() == 0) {
    for (const std::string& line : split(agreement.message, '\n'))
      fmt::print(stderr, "{}\n", printable(line));
  }
  return true;
}

// Rank 0 looks: the others need not see the folder.
void check_target(const CompressOptions& options, const Communicator& world, Problems& problems) {
  std::error_code none;
  if (world.rank() != 0) return;
  if (std::filesystem::exists(options.out_file, none) && !options.force)
    problems.add("", fmt::format("{} exists; overwrite it with --force, or write elsewhere with -o",
                                 options.out_file));
  if (std::filesystem::equivalent(options.out_file, options.model_path, none))
    problems.add("", fmt::format("-o: expected another file than the weights, found {}", options.out_file));
}

}  // namespace

CLI::App* add_compress(CLI::App& app, CompressOptions& options) {
  CLI::App* command =
      app.add_subcommand("compress", "Compress weights of a file once, for run to read again");
  command->add_option("MODEL", options.model_path, "The weights' .safetensors file")->required();
  command
      ->add_option("--scheme", options.scheme,
                   "As in a config: '{\"type\": \"int4\", \"method\": \"gptq\"}', or a type alone")
      ->type_name("JSON")
      ->required();
  command->add_option("-o,--out", options.out_file, ".safetensors file to write")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--tensor", options.tensors,
                   "What to compress (default: every matrix); NAME,NAME are stacked; may be repeated")
      ->type_name("NAME")
      ->allow_extra_args(false);
  command
      ->add_option("--inputs", options.inputs, "Recorded inputs, by the tensors' names (default: synthetic)")
      ->type_name("FILE");
  command
      ->add_option("--cotangents", options.cotangents,
                   "Recorded cotangents of the outputs, likewise, for importance gradient")
      ->type_name("FILE");
  command->add_option("--seed", options.seed, "Of synthetic inputs (default: 1)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, int64_t{9007199254740991}));
  command->add_flag("--force", options.force, "Overwrite FILE");
  command->footer("docs/compress.md has the file's format.");
  return command;
}

int compress_file(const CompressOptions& options, const Registry& registry, Communicator& world) {
  Problems problems;
  check_target(options, world, problems);
  std::vector<Job> jobs = read_jobs(options, registry, problems);
  if (report(problems, world)) return kExitUsage;

  const Machine machine = inspect_machine(world, static_cast<uint64_t>(options.seed), "hot");
  const int threads = machine.launch.default_threads;
  const bool speaks = world.rank() == 0;
  std::unique_ptr<CompressedWriter> writer;
  try {
    writer = std::make_unique<CompressedWriter>(options.out_file, static_cast<int64_t>(jobs.size()), world);
  } catch (const AgreedError& error) {
    if (speaks) fmt::print(stderr, "lamina: {}\n", printable(error.what()));
    return kExitUsage;
  }
  try {
    for (const Job& job : jobs) {
      const std::string entry = entry_name(job.ref.tensors);
      WeightStore store(threads);
      const auto weights = store.compressed(job.ref, *job.scheme, world);
      if (weights->promise.broken())  // on every rank alike
        throw AgreedError(fmt::format("{}: {}", entry, failure_of(weights->promise)));
      std::string calibration;
      together(world, [&] { calibration = job.ref.calibrated_by(job.scheme->calibration_tokens()); });
      writer->add(entry, job.scheme->name(), *weights,
                  weights_digest(*store.original(job.ref, world), world, threads), calibration);
      store.clear();
      store.drop_transports(world);
      if (!speaks) continue;
      for (const std::string& warning : weights->warnings)
        fmt::print(stderr, "lamina: warning: {}: {}\n", printable(entry), printable(warning));
      const double error = std::sqrt(weights->error_squared / weights->norm_squared);
      fmt::print("{}  {} x {}  {}  {:.1f} s{}\n", printable(entry), weights->shape.out_features,
                 weights->shape.in_features, job.scheme->name(), weights->seconds,
                 std::isfinite(error) ? fmt::format(", error {:.3g}", error) : "");
    }
    writer->finish();
  } catch (const AgreedError& error) {
    if (speaks) fmt::print(stderr, "lamina: {}\n", printable(error.what()));
    return kExitFailed;
  }
  if (speaks) fmt::print("written to {}\n", printable(options.out_file));
  return kExitOk;
}

}  // namespace lamina
