// Markdown tables of rows that compare, for the sinks that print some.
#pragma once

#include <string>
#include <vector>

#include "bench/sinks/columns.hpp"

namespace lamina {

struct TableGroup {
  std::string heading;  // "llama-3-8b o_proj, K×N 4096×4096, 1 token"
  std::vector<Row> rows;
};

// Of a layer or several, whatever the tokens: "llama-3-8b o_proj, K×N 4096×4096".
std::string layer_heading(const Record& record);

// Groups in the order of their first row; rows that compare stand together. Warnings are numbered in the
// order they come.
std::vector<TableGroup> group_rows(const std::vector<RunRows>& runs, std::vector<std::string>& warnings);

// The groups' tables, one below the other, aligned. Columns that say nothing are left out; what all rows
// share is said once above, of `what`.
std::string tables_text(const std::vector<TableGroup>& groups, const std::vector<Column>& columns,
                        const std::vector<RunRows>& runs, const std::string& what);

}  // namespace lamina
