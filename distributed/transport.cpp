#include "distributed/transport.hpp"

#include <fmt/format.h>

#include "distributed/transports.hpp"

namespace lamina {

const std::vector<TransportType>& transports() {
  static const std::vector<TransportType> all = {
      mpi_shm_transport(),      mpi_transport(),  self_transport(),
      nccl_oneshot_transport(), nccl_transport(), staged_mpi_transport(),
  };
  return all;
}

const TransportType* find_transport(std::string_view name, std::string_view device) {
  for (const TransportType& type : transports()) {
    const bool wanted = name == "auto" ? type.absent.empty() : type.name == name;
    if (wanted && type.device == device) return &type;
  }
  return nullptr;
}

std::unique_ptr<Transport> make_transport(const std::string& name, const std::string& device,
                                          Communicator& comm, const TransportOptions& options) {
  std::string why;
  for (const TransportType& type : transports()) {
    if (type.device != device || (name != "auto" && name != type.name)) continue;
    // One rank alone needs nobody to move data, and `self` serves one rank alone.
    if (name == "auto" && device == "cpu" && (type.name == "self") != (comm.size() == 1)) continue;
    if (!type.absent.empty()) {
      why += (why.empty() ? "" : "; ") + type.name + ": " + type.absent;
      continue;
    }
    try {
      std::unique_ptr<Transport> made = type.make(comm, options);
      if (!why.empty()) made->passed_over = "auto: " + why;
      return made;
    } catch (const AgreedError& e) {
      // What one transport cannot set up, such as shared memory, the next of `auto` may do without.
      why += (why.empty() ? "" : "; ") + type.name + ": " + e.what();
    }
  }
  if (why.empty()) {
    for (const TransportType& type : transports())
      if (type.device == device) why += (why.empty() ? "" : ", ") + type.name;
    why = fmt::format("expected a communicator for {} memory of {} ranks ({}), found \"{}\"", device,
                      comm.size(), why.empty() ? "none is built" : why, name);
  }
  throw AgreedError(why);
}

}  // namespace lamina
