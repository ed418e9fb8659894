// What can be named in a config: schemes, kernels, devices. Filled by register functions that main calls.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/buffer.hpp"
#include "kernels/compress/scheme.hpp"
#include "kernels/device.hpp"
#include "kernels/layer.hpp"

namespace lamina {

// Of a kernel's ways to multiply as many tokens, which it may take.
enum class Ways {
  any,    // the fastest, timed once
  exact,  // of those that multiply the weights as they are, not rounded (Layer::rounds_weights()): ranks that
          // rounded where others did not would make sums that no reference has
  own     // its own product alone, and no library's in its place
};

struct LayerOptions {
  int64_t max_tokens = 1;
  int threads = 1;
  Workspace* workspace = nullptr;  // of the layers this one shares its scratch with; null: it has its own
  Ways ways = Ways::any;
};

// One implementation of leaves on one device.
struct Kernel {
  std::string name;                  // "native", "openblas", "reference", …
  std::string device;                // "cpu", "cuda"
  std::string help;                  // what it computes and how, one line
  std::string isa;                   // instruction set in use, for the record
  InputType input = InputType::f32;  // what its layers' forward() reads x as
  // How coarsely its sums are rounded, in units of float32's 2⁻²³: the check's tolerance grows with it. Above
  // 1 only where a library's units cut off what float32 additions would round, along all of K.
  double rounding = 1;
  // `auto` takes the highest preference among those that take the leaf.
  int preference = 0;
  // Why this kernel cannot be had here and the package that brings it; empty when it can.
  std::string absent;
  // Empty when it can multiply this leaf (only the leaf's description counts, not its data), else why not.
  std::function<std::string(const Leaf& leaf)> refuses;
  std::function<std::unique_ptr<Layer>(const Leaf& leaf, const LayerOptions& options)> make;
  // Bytes that a leaf takes packed, for the memory estimate. Null: as its scheme says.
  std::function<int64_t(const Scheme::LeafBytes& leaf)> packed_bytes;
};

class Registry {
 public:
  void add(SchemeType scheme);
  void add(Kernel kernel);
  void add(DeviceInfo device);

  const SchemeType* find_scheme(std::string_view type) const;
  // Kernels of a device, best preference first.
  std::vector<const Kernel*> kernels(std::string_view device) const;
  // The kernel of this name, or for "auto" the preferred one that takes the leaf. Null with `why` filled
  // (absent, refused, unknown) when there is none.
  const Kernel* choose(std::string_view name, std::string_view device, const Leaf& leaf,
                       std::string* why) const;

  const std::vector<SchemeType>& schemes() const { return schemes_; }
  const std::vector<Kernel>& all_kernels() const { return kernels_; }
  const std::vector<DeviceInfo>& devices() const { return devices_; }

 private:
  std::vector<SchemeType> schemes_;
  std::vector<Kernel> kernels_;
  std::vector<DeviceInfo> devices_;
};

// One line for each scheme, kernel and device; see kernels/register.cpp.
void register_kernels(Registry& registry);

}  // namespace lamina
