// Text on a terminal and in tables.
#pragma once

#include <string>
#include <string_view>

namespace lamina {

// `text` with nothing in it that a terminal would obey or that would break a line: control characters,
// escapes, direction overrides and bytes that are not UTF-8 become \xNN or \u{NNNN}.
std::string printable(std::string_view text);

// Columns it takes on a terminal: code points, which is right for all the text we print but wide (CJK) names.
size_t display_width(std::string_view text);

// A number with `digits` significant digits and no exponent; digits left of the point are never rounded away.
std::string significant(double value, int digits);

}  // namespace lamina
