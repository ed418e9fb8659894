#include "kernels/registry.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace lamina {
namespace {

void add_unique(std::vector<std::string>& names, const std::string& name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

// Not fmt::join: GCC 12 warns of an overflow inside fmt 9's.
std::string joined(const std::vector<std::string>& parts, const char* separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

}  // namespace

void Registry::add(SchemeType scheme) {
  if (find_scheme(scheme.type) != nullptr)
    throw std::logic_error(fmt::format("scheme \"{}\" is registered twice", scheme.type));
  schemes_.push_back(std::move(scheme));
}

void Registry::add(Kernel kernel) {
  kernels_.push_back(std::move(kernel));
}

void Registry::add(DeviceInfo device) {
  devices_.push_back(std::move(device));
}

const SchemeType* Registry::find_scheme(std::string_view type) const {
  for (const SchemeType& scheme : schemes_) {
    if (scheme.type == type) return &scheme;
  }
  return nullptr;
}

std::vector<const Kernel*> Registry::kernels(std::string_view device) const {
  std::vector<const Kernel*> found;
  for (const Kernel& kernel : kernels_) {
    if (kernel.device == device) found.push_back(&kernel);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Kernel* a, const Kernel* b) { return a->preference > b->preference; });
  return found;
}

const Kernel* Registry::choose(std::string_view name, std::string_view device, const Leaf& leaf,
                               std::string* why) const {
  const bool any = name == "auto";
  std::vector<std::string> reasons;
  std::vector<std::string> known = {"auto"};
  for (const Kernel* kernel : kernels(device)) {
    add_unique(known, kernel->name);
    if (!any && kernel->name != name) continue;
    const std::string refusal = kernel->absent.empty() ? kernel->refuses(leaf) : kernel->absent;
    if (refusal.empty()) return kernel;
    // Several kernels share a name (one per kind of leaf): the same reason is said once.
    add_unique(reasons, fmt::format("{}: {}", kernel->name, refusal));
  }
  if (why != nullptr) {
    if (known.size() == 1) {
      *why =
          fmt::format("no kernel is registered for device \"{}\"; `lamina list` shows the devices", device);
    } else if (!any && reasons.empty()) {
      *why = fmt::format("unknown kernel \"{}\" on device \"{}\"; expected one of {}", name, device,
                         joined(known, ", "));
    } else {
      *why = fmt::format("no {} kernel on device \"{}\" takes these weights ({})",
                         any ? "registered" : std::string(name), device, joined(reasons, "; "));
    }
  }
  return nullptr;
}

}  // namespace lamina
