// One side of a comparison: the launches of one build, read from disk.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lamina::compare {

// What a comparison wants of a record.
struct LaunchRow {
  std::string status;
  std::string reason;  // why it has no time, whether the record says so or this program does
  double time_us = 0;  // latency_us_p50; 0 where the row has none
  // cycles_p50 and core_clock_mhz, of rows that go by their core's clock alone; 0 elsewhere.
  double cycles = 0, clock_mhz = 0;
  double quality = -1;                // quality_nmse, or svd_error²; negative where the row has none
  double check_share = -1;            // check_error / check_tolerance; negative where unknown
  std::string kernel;                 // who computed it, and by which instructions: `auto` may choose anew
  std::string shape;                  // sizes, ranks and the like, which the same case has everywhere
  std::vector<std::string> warnings;  // what makes the row dubious

  double measured(bool by_cycles) const { return by_cycles ? cycles : time_us; }
};

// What a difference of a fact means.
enum class Weight {
  refused,  // the comparison says nothing
  machine,  // the comparison is of machines, and refused unless asked for
  listed    // worth knowing
};

struct Fact {
  std::string name;
  std::string value;  // empty: unknown
  Weight weight = Weight::listed;
  std::string shown = {};  // in place of `value`, where that is long
};

// One run, which is one start of the program. A resumed run counts once.
struct Launch {
  std::string name;     // its path, for messages
  std::string run_id;   // empty: unknown
  std::string started;  // ISO 8601, UTC, in whole seconds; empty: unknown
  std::map<std::string, LaunchRow> rows;
  std::vector<std::string> cases;  // in the order of the records
  std::vector<Fact> facts;         // from environment.json; empty: there is none
};

struct Side {
  std::string path;
  std::vector<Launch> launches;  // never empty
};

// `path` is a records.jsonl, a run's folder, or a folder of launch-1, launch-2, … A records.jsonl with rows
// of several runs is as many launches. What is odd but usable goes to `warnings`. Throws std::runtime_error
// naming the path, and the line where there is one.
Side read_side(const std::string& path, std::vector<std::string>& warnings);

// Whether launch i of one side and launch i of the other ran before both launches i + 1, for all i.
bool interleaved(const Side& base, const Side& next);

}  // namespace lamina::compare
