// The two halves of `lamina history`.
#pragma once

#include "bench/history/history.hpp"

namespace lamina {

// Each returns the exit code. What was wrong with the input is thrown as std::runtime_error (exit 64), what
// the system refused while writing as std::system_error (exit 1).
int history_add(const HistoryOptions& options);
int history_show(const HistoryOptions& options);

// "…: a torn last line (… bytes)": what both say before how they go on.
std::string torn_text(const std::string& path, size_t bytes);

}  // namespace lamina
