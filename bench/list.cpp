#include "bench/list.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "bench/config.hpp"
#include "bench/environment.hpp"
#include "bench/sinks/sink.hpp"
#include "bench/text.hpp"
#include "bench/workload.hpp"
#include "distributed/collectives/collective.hpp"
#include "distributed/svd.hpp"
#include "distributed/transport.hpp"
#include "kernels/cpu/slowdown.hpp"
#include "kernels/weights/model.hpp"

namespace lamina {
namespace {

constexpr size_t kLineWidth = 110;

std::string line(const std::string& name, size_t width, const std::string& text) {
  const std::string padding(width - std::min(width, display_width(name)), ' ');
  return fmt::format("  {}{}  {}\n", name, padding, text);
}

// "one of cold, hot; default cold", "1 to 1000000", "required".
std::string rule(const KeySpec& key) {
  std::vector<std::string> parts;
  if (!key.choices.empty()) {
    parts.push_back(fmt::format("{}", fmt::join(key.choices, " | ")));
  } else if (key.min != key.max) {
    parts.push_back(fmt::format("{} to {}", key.min, key.max));
  }
  if (!std::holds_alternative<std::nullptr_t>(key.fallback)) {
    const auto* text = std::get_if<std::string>(&key.fallback);
    const auto* number = std::get_if<double>(&key.fallback);
    parts.push_back("default " + (text != nullptr     ? *text
                                  : number != nullptr ? fmt::format("{}", *number)
                                                      : describe_value(key.fallback)));
  } else {
    parts.push_back(key.optional ? "optional" : "required");
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

// `text` broken between words, every line but the first behind `indent` spaces.
std::string wrapped(const std::string& text, size_t indent) {
  std::string out;
  size_t column = indent;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    const size_t width = display_width(word);
    if (column > indent && column + 1 + width > kLineWidth) {
      out += "\n" + std::string(indent, ' ') + word;
      column = indent + width;
    } else {
      out += (column > indent ? " " : "") + word;
      column += width + (column > indent ? 1 : 0);
    }
    begin = end + 1;
  }
  return out;
}

std::string keys_text(const std::vector<KeySpec>& keys) {
  size_t width = 0;
  for (const KeySpec& key : keys) width = std::max(width, key.name.size());
  std::string out;
  for (const KeySpec& key : keys) {
    const std::string text = fmt::format("{} [{}]", key.help, rule(key));
    out += fmt::format("    {:<{}}  {}\n", key.name, width, wrapped(text, width + 6));
  }
  return out;
}

// What several workloads have is said once, beneath what each has alone.
std::string workloads_text() {
  const auto has = [](const WorkloadType& workload, const KeySpec& key) {
    return std::any_of(workload.keys.begin(), workload.keys.end(), [&](const KeySpec& other) {
      return other.name == key.name && other.help == key.help && rule(other) == rule(key);
    });
  };
  std::string out;
  std::vector<std::pair<std::string, std::vector<KeySpec>>> shared;  // "layer and mlp", and their keys
  for (const WorkloadType& workload : workloads()) {
    std::vector<KeySpec> own;
    for (const KeySpec& key : workload.keys) {
      std::vector<std::string> names;
      for (const WorkloadType& other : workloads())
        if (has(other, key)) names.push_back(other.name);
      if (names.size() == 1) own.push_back(key);
      if (names.size() == 1 || names.front() != workload.name) continue;
      const std::string who = names.size() == workloads().size()
                                  ? "every workload"
                                  : fmt::format("{}", fmt::join(names, " and "));
      auto place =
          std::find_if(shared.begin(), shared.end(), [&](const auto& one) { return one.first == who; });
      if (place == shared.end()) place = shared.insert(shared.end(), {who, {}});
      place->second.push_back(key);
    }
    out += fmt::format("  {}: {}\n", workload.name, workload.help) + keys_text(own);
  }
  for (const auto& [who, keys] : shared) out += "  " + who + ":\n" + keys_text(keys);
  return out;
}

std::string kernels_text(const Registry& registry) {
  std::string out;
  for (const Kernel& kernel : registry.all_kernels()) {
    std::string text = kernel.help;
    if (!kernel.isa.empty()) text += " [" + kernel.isa + "]";
    if (!kernel.absent.empty()) text = "absent: " + kernel.absent;
    out += line(kernel.name, 12, fmt::format("{:<5} {}", kernel.device, printable(text)));
  }
  return out;
}

std::string methods_text() {
  std::string out;
  for (const SvdMethod& method : svd_methods())
    out += line(method.name, 14, printable(method.absent.empty() ? method.help : "absent: " + method.absent));
  return out;
}

std::string devices_text(const Registry& registry) {
  std::string out;
  for (const DeviceInfo& device : registry.devices()) {
    if (!device.available) {
      out += line(device.type, 12, "absent: " + printable(device.reason));
      continue;
    }
    if (device.units.empty()) out += line(device.type, 12, "present");
    for (const std::string& unit : device.units) out += line(device.type, 12, printable(unit));
  }
  return out;
}

std::string models_text() {
  std::string out;
  for (const std::string& name : shipped_models()) {
    const Model model = load_model(name);
    out += line(name, 16,
                fmt::format("hidden {}, intermediate {}, {} layers", model.hidden_size,
                            model.intermediate_size, model.num_hidden_layers));
  }
  return out + line("PATH", 16, "a Hugging Face config.json, or a folder with one");
}

}  // namespace

std::string list_text(const Registry& registry, Communicator& world) {
  std::string out = slowdown_warning();
  if (!out.empty()) out = "This program was " + out + ".\n\n";
  out += "Workloads, as `workload` of an experiment, and their keys:\n\n";
  out += workloads_text();
  out += "\nSchemes, as `type` of `scheme`, and their keys:\n\n";
  for (const SchemeType& scheme : registry.schemes()) {
    out += fmt::format("  {}: {}\n", scheme.type, scheme.help) + keys_text(scheme.keys);
  }
  out += "\nKeys of `measure`:\n\n" + keys_text(measure_keys());
  out += "\nKernels, as `kernel` (`auto` takes the fastest that fits):\n\n" + kernels_text(registry);
  out += "\nMethods of factorising, as `method` of an svd:\n\n" + methods_text();
  out += "\nDevices:\n\n" + devices_text(registry);
  out += "\nCommunicators, as `communicator` (`auto` takes a device's first that can be set up):\n\n";
  for (const TransportType& type : transports())
    out += line(type.name, 12,
                fmt::format("{:<5} {}", type.device,
                            printable(type.absent.empty() ? type.help : "absent: " + type.absent)));
  out += "\nCollectives, as `collective`:\n\n";
  for (const Collective& one : collectives()) out += line(one.name, 16, one.help);
  out += "\nLibraries that factorisations call:\n\n";
  for (const OptionalLibrary& library : optional_libraries()) {
    out += line(library.name, 12,
                printable(library.absent.empty() ? library.version : "absent: " + library.absent));
  }
  out += fmt::format("\nThis launch: {} of {} on {}.\n", world.name(),
                     fmt::format("{} {}", world.size(), world.size() == 1 ? "rank" : "ranks"),
                     fmt::format("{} {}", world.nodes(), world.nodes() == 1 ? "node" : "nodes"));
  out += "\nModels, as `model`:\n\n" + models_text();
  out +=
      "\nLayers of a model, as `layer`: " + fmt::format("{}", fmt::join(model_layer_names(), ", ")) + ".\n";
  out += "\nFormats of `lamina export`:\n\n";
  for (const Sink& sink : sinks()) out += line(sink.name, 24, sink.help);
  return out;
}

}  // namespace lamina
