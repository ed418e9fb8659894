// Strict JSON: every departure that a lenient parser lets through is an error with its place.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/params.hpp"

namespace lamina {

// Parses RFC 8259 text. Refuses, beside bad syntax (with line and column): a byte-order mark, duplicate keys
// (all of them reported), nesting deeper than 64, integers that fit no int64, numbers that fit no double,
// text after the value. Problems go to `problems`; the result is usable only when none was added.
nlohmann::ordered_json parse_strict_json(std::string_view text, Problems& problems);

// A whole file as text; throws std::runtime_error naming the path unless it is a regular, readable file of at
// most max_bytes.
std::string read_text_file(const std::string& path, int64_t max_bytes = 64 << 20);

}  // namespace lamina
