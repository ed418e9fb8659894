// The columns of tables: what stands in each row of a layer's forward, of a factorisation, and of a
// collective.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/sinks/sink.hpp"

namespace lamina {

struct Row {
  const RunRows* run;
  const Record* record;
  std::string notes;  // numbers of its warnings
};

struct Column {
  std::string header;
  bool right = true;
  std::function<std::string(const Row&)> cell;
};

inline constexpr const char* kCommunication = "comm KB";
inline constexpr const char* kCommunicator = "communicator";

const std::vector<Column>& forward_columns();
const std::vector<Column>& svd_columns();
const std::vector<Column>& collective_columns();

// For a cell of a Markdown table.
std::string escaped(std::string_view text);
// "row", with "bf16" where sums over ranks are in that, and "o4" where 4 chunks of them overlap products.
std::string shard_of(const Record& record);
// A count without decimals; empty where it is null.
std::string count(const Record& record, const char* key);

}  // namespace lamina
