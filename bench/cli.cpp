#include "bench/cli.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <regex>

#include "bench/sinks/sink.hpp"
#include "bench/text.hpp"
#include "kernels/params.hpp"

namespace lamina {
namespace {

constexpr const char* kAbout =
    "Lamina measures compressed linear layers of language models (dense, int8, int4, fp8, pruned,\n"
    "low-rank), on CPU cores and GPUs, alone or cut over MPI ranks. One JSON file in, one table out, each\n"
    "row with its latency, its share of the machine's limit and its error, after its result was checked.\n";

constexpr const char* kFirstSteps = R"(First steps:
  lamina run configs/quickstart.json               a table within a minute
  lamina list                                      what a config can name
  lamina run configs/quickstart.json --dry-run     what would run, with memory and time

Examples:
  mpirun -n 2 lamina run configs/quickstart.json -o runs/two
      on two ranks; records, table and environment go to runs/two
  srun --mpi=pmix -n 8 lamina run configs/mlp.json
      on a Slurm cluster
  lamina run configs/quickstart.json --filter int4 --set tokens=[1,16]
      only the cases whose name matches, at other token counts
  lamina export runs/one runs/two --format csv -o both.csv
      several runs in one file
  lamina ab --base old/lamina --new build/lamina configs/quickstart.json --launches 10
      whether a new build is slower than an old one; selftest says how many launches that takes here
  lamina history add runs/one --file history.jsonl && lamina history show history.jsonl
      a case's times from commit to commit, and where they changed

Exit codes:
  0   every row is ok or skipped
  1   a row failed, was invalid or timed out; or the program could not go on
  10  compare, ab: a row is slower, or its quality worse
  11  compare, ab: a row is missing or invalid
  12  compare, ab: a row cannot be judged by these launches; selftest: nor could any gate
  64  bad usage or bad config; runs that do not compare

More: README.md, docs/config.md (every key of a config), docs/record.md (every column),
docs/measuring.md (how times are taken), docs/regression.md (how runs are compared), docs/tracking.md (trackers,
histories, CI).
`lamina COMMAND --help` explains a command.)";

constexpr const char* kCompareFooter =
    R"(Exit codes: 0 no regression, 10 a row is slower or its quality worse, 11 a row is missing or invalid,
12 a row cannot be judged by these launches, 64 nothing that compares; of several, 64, 11, 10, 12.
docs/regression.md has the rules.)";

constexpr int64_t kMostLaunches = 1000;
const std::vector<std::string> kCommands = {"run",     "compress", "list",     "export",
                                            "compare", "ab",       "selftest", "history"};
const std::vector<std::string> kFormats = {"terminal", "markdown", "json"};

std::string format_names() {
  std::string names;
  for (const Sink& sink : sinks()) names += (names.empty() ? "" : "|") + sink.name;
  return names;
}

// `lamina history` and its two halves.
struct HistoryApp {
  HistoryApp(CLI::App& app, HistoryOptions& options) {
    history = app.add_subcommand("history",
                                 "Keep a case's times from commit to commit, and find where they changed");
    add = history->add_subcommand("add", "Append the ok rows of runs to a history");
    add->add_option("RUN", options.runs, "Folders of runs, or records.jsonl files")->required();
    add->add_option("--file", options.file, "History to append to; made where it is not there")
        ->required()
        ->type_name("HISTORY.jsonl");
    add->add_option("--commit", options.commit, "What was measured (default: the commit in environment.json)")
        ->type_name("NAME");
    add->add_option("--machine", options.machine,
                    "Where (default: host, processor and cores in environment.json). Runners whose\n"
                    "hosts have passing names need one")
        ->type_name("NAME");
    show =
        history->add_subcommand("show", "Print each case's last time and latest change, or one case's past");
    show->add_option("HISTORY", options.file, "Written by `lamina history add`")
        ->required()
        ->type_name("HISTORY.jsonl");
    show->add_option("--case", options.case_name, "Every point of this case, with its change points")
        ->type_name("NAME");
    show->add_option("--machine", options.machine, "Of this machine alone")->type_name("NAME");
    show->add_option("--svg", options.svg_file, "Draw the case of --case, on one machine")->type_name("FILE");
    history->footer("docs/tracking.md says how changes are found.");
  }
  CLI::App* history = nullptr;
  CLI::App* add = nullptr;
  CLI::App* show = nullptr;
};

struct App {
  explicit App(CommandLine& line) {
    app.name("lamina");
    app.set_help_flag("-h,--help", "Print this and exit");
    app.set_version_flag("--version", std::string("lamina ") + LAMINA_VERSION, "Print the version and exit");
    app.require_subcommand(0, 1);

    run = app.add_subcommand("run", "Measure the cases of a config and print their table");
    run->add_option("CONFIG", line.run.config_path, "JSON file: what to measure")->required();
    run->add_option("-o,--out", line.run.out_dir, "Folder for the results (default: runs/NAME-TIME)")
        ->type_name("DIR");
    run->add_option("--filter", line.run.filter, "Only the cases whose name this regular expression finds")
        ->type_name("RE");
    run->add_option("--set", line.run.overrides,
                    "Change the config: tokens=[1,64] in every experiment, or a path from the top such as\n"
                    "measure.max_seconds=1 or experiments.0.device=cpu; may be repeated")
        ->type_name("KEY=VALUE")
        ->allow_extra_args(false);
    run->add_flag("--dry-run", line.run.dry_run, "Print the cases, their memory and time; measure nothing");
    run->add_flag("--resume", line.run.resume,
                  "Go on with the run in DIR: what is missing or failed (needs -o)");
    run->add_flag("--yes", line.run.many, "Run more than 100000 cases");
    run->add_option("--launches", line.launches,
                    "Start the program this often, into DIR/launch-1, DIR/launch-2, …: a side for compare")
        ->type_name("N")
        ->check(CLI::Range(int64_t{1}, kMostLaunches));
    run->add_option("--launcher", launcher, "What starts each launch: \"mpirun -n 2\"")->type_name("WORDS");

    run->footer("`lamina list` and docs/config.md have every key of a config.");
    compress = add_compress(app, line.compress);
    list = app.add_subcommand("list", "Print what a config can name, and what is absent here and why");

    export_runs = app.add_subcommand("export", "Print the rows of one or more runs in another format");
    export_runs->add_option("RUN", line.runs, "Folders of runs, or records.jsonl files")->required();
    export_runs->add_option("--format", line.format, "One of the formats below")->type_name("FORMAT");
    export_runs->add_option("-o,--out", line.out_file, "File to write instead of stdout")->type_name("FILE");
    std::string formats = "Formats:";
    for (const Sink& sink : sinks()) formats += fmt::format("\n  {:<26}{}", sink.name, sink.help);
    export_runs->footer(formats + "\n");
    add_compare(line.compare);
    add_ab(line.ab);
    add_selftest(line.ab);
    history.emplace(app, line.history);
    // Last: a subcommand made later would inherit it.
    app.footer(kFirstSteps);
    for (CLI::App* command : {run, compress, list, export_runs, compare, ab, selftest, history->history,
                              history->add, history->show})
      command->set_help_flag("-h,--help", "Print this and exit");
  }

  void add_compare(compare::Options& options) {
    compare = app.add_subcommand("compare", "Say which rows of NEW are slower, faster or worse than BASE's");
    compare->add_option("BASE", options.base, "A run's folder or records.jsonl, or a folder of launch-1, …")
        ->required();
    compare->add_option("NEW", options.next, "The same of what is compared with it")->required();
    compare->add_option("-o,--out", options.out_file, "JSON file for the verdict")->type_name("FILE");
    compare->add_flag("--all", options.all, "List every row, however many are ok");
    add_rules(*compare, options);
    add_format(*compare, options);
    compare->footer(kCompareFooter);
  }

  void add_ab(compare::AbOptions& options) {
    ab = app.add_subcommand("ab", "Measure two builds in turn on this machine, and compare them");
    ab->add_option("CONFIG", options.start.config_path, "JSON file: what to measure")->required();
    ab->add_option("--base", options.base_binary, "The lamina to compare with")
        ->type_name("BINARY")
        ->required();
    ab->add_option("--new", options.new_binary, "The lamina that is compared")
        ->type_name("BINARY")
        ->required();
    add_pairs(*ab, options, "Launches of each at most (default: 10)");
    add_rules(*ab, options.report);
    add_format(*ab, options.report);
    ab->footer(kCompareFooter);
  }

  void add_selftest(compare::AbOptions& options) {
    selftest = app.add_subcommand("selftest", "Say what a gate by ab would be worth on this machine");
    selftest->add_option("CONFIG", options.start.config_path, "JSON file: what to measure")->required();
    add_pairs(*selftest, options,
              "Pairs of launches of this program to measure (default: 30); gates of half as many are tried");
    selftest
        ->add_option(
            "--slow", options.slow_binaries,
            "A build with LAMINA_INJECT_SLOWDOWN, launched beside each pair: does a gate find it? May be "
            "repeated")
        ->type_name("BINARY")
        ->allow_extra_args(false);
    add_rules(*selftest, options.report);
    selftest->footer(
        "Exit codes: 0 a gate finds 5 % here, 12 none of those tried does. docs/regression.md explains.");
  }

  void add_pairs(CLI::App& command, compare::AbOptions& options, const std::string& launches) {
    command.add_option("--launches", options.launches, launches)
        ->type_name("N")
        ->check(CLI::Range(int64_t{2}, kMostLaunches));
    command.add_option("--launcher", launcher, "What starts each launch: \"mpirun -n 2\"")
        ->type_name("WORDS");
    command
        .add_option("-o,--out", options.out_dir, "Folder for launches and verdict (default: runs/ab-TIME)")
        ->type_name("DIR");
    command.add_option("--filter", options.start.filter, "Only the cases whose name this finds")
        ->type_name("RE");
    command.add_option("--set", options.start.overrides, "Change the config, as for run; may be repeated")
        ->type_name("KEY=VALUE")
        ->allow_extra_args(false);
    command.add_flag("--resume", options.resume, "Go on with what is in DIR (needs -o)");
  }

  void add_rules(CLI::App& command, compare::Options& options) {
    command.add_option(
        "--alpha", options.settings.alpha,
        "Chance that any row is called slower or faster where nothing changed (default: 0.01)");
    command
        .add_option("--floor", floor_percent, "Changes below this many percent are never called (default: 2)")
        ->type_name("PERCENT");
    command
        .add_option("--limit", limit_percent,
                    "A row is ok when its interval stays below this many percent (default: 5)")
        ->type_name("PERCENT");
    command.add_option("--quality-factor", options.settings.quality_factor,
                       "An error that grew by more is a regression (default: 1.1)");
    command.add_flag("--times", options.settings.times_only,
                     "Compare times even where rows have their core's cycles");
    command.add_flag("--across-machines", options.settings.across_machines,
                     "Compare runs of different CPUs all the same");
  }

  void add_format(CLI::App& command, compare::Options& options) {
    command.add_option("--format", options.format, "On stdout")->type_name("terminal|markdown|json");
  }

  CLI::App app{kAbout};
  CLI::App* run = nullptr;
  CLI::App* compress = nullptr;
  CLI::App* list = nullptr;
  CLI::App* export_runs = nullptr;
  CLI::App* compare = nullptr;
  CLI::App* ab = nullptr;
  CLI::App* selftest = nullptr;
  std::optional<HistoryApp> history;
  std::string launcher;
  double floor_percent = 2, limit_percent = 5;
};

constexpr const char* kExpectedCommand =
    "expected a command: run, compress, list, export, compare, ab, selftest or history";

std::string suggestion(const std::string& nearest) {
  return nearest.empty() ? "" : fmt::format("; did you mean `{}`?", nearest);
}

CommandLine usage_error(const std::string& message, const std::string& command) {
  CommandLine line;
  line.exit_code = kExitUsage;
  line.text =
      fmt::format("lamina: {}\nTry `lamina {}--help`.\n", message, command.empty() ? "" : command + " ");
  return line;
}

// What CLI11 could not place: an unknown flag, or one argument too many.
std::string describe_extra(const CLI::App& command, const std::string& argument) {
  if (!argument.starts_with("-"))
    return fmt::format("expected no more arguments, found `{}`", printable(argument));
  std::vector<std::string> known;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    for (const std::string& name : option->get_snames()) known.push_back("-" + name);
  }
  const std::string flag = argument.substr(0, argument.find('='));
  return fmt::format("unknown flag `{}`{}", printable(flag), suggestion(nearest_name(flag, known)));
}

// A number that CLI11 reads may still be NaN, which no comparison finds out of range.
bool within(double value, double low, double high) {
  return value >= low && value <= high;
}

std::string check_rules(const compare::Options& options) {
  const compare::Settings& settings = options.settings;
  if (!within(settings.alpha, 1e-6, 0.5))
    return fmt::format("--alpha: expected 1e-6 to 0.5, found {}", settings.alpha);
  if (!within(settings.floor, 0, 10))
    return fmt::format("--floor: expected 0 to 1000 percent, found {}", 100 * settings.floor);
  if (!within(settings.limit, 1e-4, 10))
    return fmt::format("--limit: expected 0.01 to 1000 percent, found {}", 100 * settings.limit);
  if (!within(settings.quality_factor, 1, 1e6))
    return fmt::format("--quality-factor: expected 1 to 1e6, found {}", settings.quality_factor);
  if (std::find(kFormats.begin(), kFormats.end(), options.format) == kFormats.end())
    return fmt::format("--format: expected terminal, markdown or json, found `{}`{}",
                       printable(options.format), suggestion(nearest_name(options.format, kFormats)));
  return "";
}

std::string check_filter(const std::string& filter) {
  try {
    (void)std::regex(filter);
    return "";
  } catch (const std::regex_error& error) {
    return fmt::format("--filter: expected a regular expression, found `{}` ({})", printable(filter),
                       error.what());
  }
}

// Values that CLI11 takes and the command cannot.
std::string check_values(const CommandLine& line) {
  for (const std::string& filter : {line.run.filter, line.ab.start.filter})
    if (const std::string problem = check_filter(filter); !problem.empty()) return problem;
  if (line.command == CommandLine::Command::compare) return check_rules(line.compare);
  if (line.command == CommandLine::Command::ab || line.command == CommandLine::Command::selftest) {
    if (line.ab.resume && line.ab.out_dir.empty())
      return "--resume: expected -o DIR, the folder to go on with";
    return check_rules(line.ab.report);
  }
  if (line.command == CommandLine::Command::run_launches) {
    if (line.run.out_dir.empty()) return "--launches: expected -o DIR, the folder for the launches";
    if (line.run.dry_run) return "expected --launches or --dry-run, found both";
  } else if (!line.start.launcher.empty()) {
    return "--launcher: expected --launches too: without, start lamina by the launcher itself";
  }
  if (line.command == CommandLine::Command::run) {
    if (line.run.resume && line.run.out_dir.empty())
      return "--resume: expected -o DIR, the folder of the run to go on with";
    if (line.run.resume && line.run.dry_run) return "expected --resume or --dry-run, found both";
  }
  if (line.command == CommandLine::Command::history) {
    for (const auto& [option, value] :
         {std::pair("--commit", line.history.commit), std::pair("--machine", line.history.machine)}) {
      if (printable(value) != value)
        return fmt::format("{}: expected text without control characters, found `{}`", option,
                           printable(value));
    }
    if (!line.history.svg_file.empty() && line.history.case_name.empty())
      return "--svg: expected --case NAME, the case to draw";
  }
  if (line.command == CommandLine::Command::export_runs && find_sink(line.format) == nullptr) {
    std::vector<std::string> known;
    for (const Sink& sink : sinks()) known.push_back(sink.name);
    return fmt::format("--format: expected {}, found `{}`{}", format_names(), printable(line.format),
                       suggestion(nearest_name(line.format, known)));
  }
  return "";
}

}  // namespace

CommandLine read_command_line(int argc, const char* const* argv) {
  CommandLine line;
  App parser(line);
  line.format = "table";
  if (argc <= 1) {
    line = usage_error(kExpectedCommand, "");
    line.text = parser.app.help() + "\n" + line.text;
    return line;
  }
  const std::string first = argv[1];
  if (!first.starts_with("-") && std::find(kCommands.begin(), kCommands.end(), first) == kCommands.end()) {
    return usage_error(
        fmt::format("unknown command `{}`{}", printable(first), suggestion(nearest_name(first, kCommands))),
        "");
  }
  // The innermost command that was named, and the words before it.
  const auto chosen = [&]() -> CLI::App* {
    const auto outer = parser.app.get_subcommands();
    if (outer.empty()) return nullptr;
    const auto inner = outer.front()->get_subcommands();
    return inner.empty() ? outer.front() : inner.front();
  };
  const auto name = [&]() -> std::string {
    if (chosen() == nullptr) return "";
    const bool nested = chosen()->get_parent() != &parser.app;
    return (nested ? chosen()->get_parent()->get_name() + " " : "") + chosen()->get_name();
  };
  try {
    parser.app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const bool nested = chosen() != nullptr && chosen()->get_parent() != &parser.app;
    line.text =
        chosen() == nullptr ? parser.app.help() : chosen()->help(nested ? "lamina history" : "lamina");
    return line;
  } catch (const CLI::CallForVersion&) {
    line.text = parser.app.version() + "\n";
    return line;
  } catch (const CLI::ExtrasError&) {
    const CLI::App& command = chosen() == nullptr ? parser.app : *chosen();
    const std::vector<std::string> extras = parser.app.remaining(true);
    return usage_error(
        extras.empty() ? "expected no more arguments" : describe_extra(command, extras.front()), name());
  } catch (const CLI::ParseError& error) {
    return usage_error(printable(error.what()), name());
  }
  if (chosen() == nullptr) return usage_error(kExpectedCommand, "");
  if (chosen() == parser.history->history)
    return usage_error("expected `history add` or `history show`", name());
  const std::string command = parser.app.get_subcommands().front()->get_name();
  line.command = command == "run"
                     ? line.launches > 0 ? CommandLine::Command::run_launches : CommandLine::Command::run
                 : command == "compress" ? CommandLine::Command::compress
                 : command == "list"     ? CommandLine::Command::list
                 : command == "export"   ? CommandLine::Command::export_runs
                 : command == "compare"  ? CommandLine::Command::compare
                 : command == "ab"       ? CommandLine::Command::ab
                 : command == "history"  ? CommandLine::Command::history
                                         : CommandLine::Command::selftest;
  line.history.action =
      parser.history->add->parsed() ? HistoryOptions::Action::add : HistoryOptions::Action::show;
  line.run.command_line.assign(argv, argv + argc);
  line.start = {compare::words_of(parser.launcher),
                "",
                line.run.config_path,
                line.run.filter,
                line.run.overrides,
                line.run.many};
  line.ab.start.launcher = line.start.launcher;
  if (line.ab.launches == 0) line.ab.launches = command == "selftest" ? 30 : 10;
  for (compare::Options* rules : {&line.compare, &line.ab.report}) {
    rules->settings.floor = parser.floor_percent / 100;
    rules->settings.limit = parser.limit_percent / 100;
  }
  const std::string problem = check_values(line);
  return problem.empty() ? line : usage_error(problem, name());
}

}  // namespace lamina
