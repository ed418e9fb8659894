#include "kernels/json.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <unordered_set>

namespace lamina {

namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxMessageBytes = 200;

// One line of printable ASCII, cut to length: the parser quotes what it last read, which may be anything.
std::string printable(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, kMaxMessageBytes)) {
    const bool shown = static_cast<unsigned char>(c) >= 0x20 && static_cast<unsigned char>(c) < 0x7f;
    out += shown ? c : '?';
  }
  return text.size() > kMaxMessageBytes ? out + "..." : out;
}

// Builds the value while it checks what nlohmann's own builder lets through. Keys are appended without a
// search and looked up in a hash set, so that an object of a million keys stays linear.
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  StrictBuilder(std::string_view text, Problems& problems) : text_(text), problems_(problems) {}

  Json take() { return std::move(root_); }

  bool null() override { return place(nullptr); }
  bool boolean(bool value) override { return place(value); }
  bool number_integer(number_integer_t value) override { return place(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return refuse_integer(fmt::format("{}", value));
    return place(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    // The lexer turns an integer too large for 64 bits into a double.
    if (text.find_first_of(".eE") == std::string::npos) return refuse_integer(text);
    return place(value);
  }
  bool string(string_t& value) override { return place(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    Level& level = levels_.back();
    level.key = name;
    if (!level.keys.insert(name).second)
      problems_.add(pointer(true), "expected each key once, found a duplicate key");
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while parsing …"
    std::string_view what = error.what();
    if (error.id == 406) {
      problems_.add(pointer(true), "expected a number that fits a double, found one that overflows");
      return false;
    }
    if (const size_t start = what.find("] "); start != std::string_view::npos) what.remove_prefix(start + 2);
    constexpr std::string_view kPrefix = "parse error at ";
    if (what.substr(0, kPrefix.size()) == kPrefix) what.remove_prefix(kPrefix.size());
    problems_.add(pointer(false), "expected JSON, found an error at " + printable(what) +
                                      (trailing_comma(position) ? " (remove the trailing comma)" : ""));
    return false;
  }

  // The innermost open container's place, or with `element` that of the value being read in it.
  std::string pointer(bool element) const {
    std::string out;
    for (size_t i = 0; i < levels_.size(); ++i) {
      const Level& level = levels_[i];
      const bool innermost = i + 1 == levels_.size();
      if (innermost && !element) break;
      // An outer array already holds the element we are in; the innermost one does not hold the one being
      // read.
      const size_t index = level.value->size() - (innermost ? 0 : 1);
      out += "/" + (level.value->is_object() ? pointer_token(level.key) : std::to_string(index));
    }
    return out;
  }

 private:
  struct Level {
    Json* value;
    std::string key;
    std::unordered_set<std::string> keys;
  };

  Json* append(Json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.value->is_array()) {
      level.value->push_back(std::move(value));
      return &level.value->back();
    }
    auto& object = level.value->get_ref<Json::object_t&>();
    object.emplace_back(level.key, std::move(value));
    return &object.back().second;
  }

  bool place(Json value) {
    append(std::move(value));
    return true;
  }

  bool open(Json empty) {
    if (levels_.size() == kMaxDepth) {
      problems_.add(pointer(false),
                    fmt::format("expected at most {} levels of nesting, found more", kMaxDepth));
      return false;
    }
    // The parent's elements do not move until this one is closed, so the address stays good.
    levels_.push_back({append(std::move(empty)), {}, {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  bool refuse_integer(const std::string& text) {
    problems_.add(pointer(true), "expected an integer within 64 bits (signed), found " + printable(text));
    return place(0);
  }

  // Whether the byte before `position` closes a container right after a comma.
  bool trailing_comma(size_t position) const {
    if (position == 0 || position > text_.size()) return false;
    if (text_[position - 1] != '}' && text_[position - 1] != ']') return false;
    const size_t before = text_.substr(0, position - 1).find_last_not_of(" \t\r\n");
    return before != std::string_view::npos && text_[before] == ',';
  }

  std::string_view text_;
  Problems& problems_;
  Json root_;
  std::vector<Level> levels_;
};

// Closes a descriptor at the end of its scope.
struct File {
  int descriptor;
  ~File() { ::close(descriptor); }
};

}  // namespace

nlohmann::ordered_json parse_strict_json(std::string_view text, Problems& problems) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    problems.add("", "expected JSON in UTF-8 without a byte-order mark, found one; save the file without it");
    text.remove_prefix(kByteOrderMark.size());
  }
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    problems.add("", "expected JSON, found nothing");
    return {};
  }
  StrictBuilder builder(text, problems);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

std::string read_text_file(const std::string& path, int64_t max_bytes) {
  // Not blocking: opening a FIFO would otherwise wait for its writer.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0)
    throw std::runtime_error(
        fmt::format("{}: expected a readable file, found: {}", path, std::strerror(errno)));
  const File file{descriptor};
  struct stat status {};
  if (::fstat(descriptor, &status) != 0)
    throw std::runtime_error(fmt::format("{}: cannot be examined: {}", path, std::strerror(errno)));
  if (!S_ISREG(status.st_mode))
    throw std::runtime_error(fmt::format("{}: expected a regular file, found {}", path,
                                         S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket"));
  auto refuse_size = [&] {
    throw std::runtime_error(
        fmt::format("{}: expected at most {} bytes, found a larger file", path, max_bytes));
  };
  if (status.st_size > max_bytes) refuse_size();
  std::string text;
  std::vector<char> chunk(1 << 16);
  while (true) {
    const ssize_t count = ::read(descriptor, chunk.data(), chunk.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      throw std::runtime_error(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
    if (count == 0) return text;
    text.append(chunk.data(), static_cast<size_t>(count));
    if (static_cast<int64_t>(text.size()) > max_bytes) refuse_size();
  }
}

}  // namespace lamina
