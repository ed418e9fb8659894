#include "distributed/variable.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <stdexcept>

#include "distributed/agree.hpp"

namespace lamina {

int64_t variable(const char* name, const std::string& what, int64_t least, int64_t most, int64_t usual) {
  const char* text = std::getenv(name);
  if (text == nullptr) return usual;
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(text, &end, 10);
  if (*text == '\0' || *end != '\0' || errno != 0 || value < least || value > most)
    throw std::invalid_argument(
        fmt::format("{}: expected {}, {} to {}, found \"{}\"", name, what, least, most, text));
  return value;
}

int64_t agreed_variable(const char* name, const std::string& what, int64_t least, int64_t most, int64_t usual,
                        Communicator& comm) {
  int64_t value = 0;
  together(comm, [&] { value = variable(name, what, least, most, usual); });
  int64_t smallest = 0, largest = 0;
  comm.all_reduce(&value, &smallest, 1, DType::i64, ReduceOp::min);
  comm.all_reduce(&value, &largest, 1, DType::i64, ReduceOp::max);
  if (smallest != largest)  // the same on every rank
    throw AgreedError(
        fmt::format("{}: expected the same on all ranks, found {} and {}; set it for all: "
                    "mpirun -x {}",
                    name, smallest, largest, name));
  return value;
}

std::string agreed_word(const char* name, const std::vector<std::string>& words, Communicator& comm) {
  const char* text = std::getenv(name);
  together(comm, [&] {
    if (text != nullptr && std::find(words.begin(), words.end(), text) == words.end())
      throw std::invalid_argument(
          fmt::format("{}: expected one of {}, found \"{}\"", name, fmt::join(words, ", "), text));
  });
  const std::string word = text == nullptr ? "" : text, first = comm.broadcast_text(word);
  comm.require(
      word == first
          ? ""
          : fmt::format("{}: expected the same on all ranks, found \"{}\" and \"{}\"; set it for all: "
                        "mpirun -x {}",
                        name, first, word, name));
  return word;
}

}  // namespace lamina
