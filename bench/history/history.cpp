#include "bench/history/history.hpp"

#include <fmt/format.h>

#include <stdexcept>
#include <system_error>

#include "bench/history/actions.hpp"
#include "bench/runner.hpp"
#include "bench/text.hpp"

namespace lamina {

std::string torn_text(const std::string& path, size_t bytes) {
  return fmt::format("{}: a torn last line ({} bytes), as an interrupted `history add` leaves it", path,
                     bytes);
}

int history(const HistoryOptions& options) {
  try {
    return options.action == HistoryOptions::Action::add ? history_add(options) : history_show(options);
  } catch (const std::system_error& error) {  // the file cannot be written
    fmt::print(stderr, "lamina: {}\n", printable(error.what()));
    return kExitFailed;
  } catch (const std::runtime_error& error) {
    fmt::print(stderr, "lamina: {}\n", printable(error.what()));
    return kExitUsage;
  }
}

}  // namespace lamina
