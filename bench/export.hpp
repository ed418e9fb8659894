// `lamina export`: the rows of runs in another format.
#pragma once

#include <string>
#include <vector>

namespace lamina {

// Renders the runs in a sink's format to `out_file`, or to stdout where it is empty. Warnings and errors go
// to stderr, every unreadable run at once. One process alone. Returns the exit code.
int export_runs(const std::vector<std::string>& runs, const std::string& format, const std::string& out_file);

// All of `text` to stdout; false, with a message on stderr, when it could not all be written.
bool print_out(const std::string& text);

}  // namespace lamina
