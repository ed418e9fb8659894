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
    "Lamina measures compressed linear layers of language models (dense, int8, int4, pruned,\n"
    "low-rank), on one core or cut over MPI ranks. One JSON file in, one table of rows out: each\n"
    "with its latency, its share of the machine's limit and its error, after its result was checked.\n";

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
  lamina history add runs/one --file history.jsonl && lamina history show history.jsonl
      a case's times from commit to commit, and where they changed

Exit codes:
  0   every row is ok or skipped
  1   a row failed, was invalid or timed out; or the program could not go on
  64  bad usage or bad config

More: README.md, docs/config.md (every key of a config), docs/record.md (every column),
docs/measuring.md (how times are taken), docs/tracking.md (trackers, histories, CI).
`lamina COMMAND --help` explains a command.)";

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

    run->footer("`lamina list` and docs/config.md have every key of a config.");
    list = app.add_subcommand("list", "Print what a config can name, and what is absent here and why");

    export_runs = app.add_subcommand("export", "Print the rows of one or more runs in another format");
    export_runs->add_option("RUN", line.runs, "Folders of runs, or records.jsonl files")->required();
    export_runs->add_option("--format", line.format, "One of the formats below")->type_name("FORMAT");
    export_runs->add_option("-o,--out", line.out_file, "File to write instead of stdout")->type_name("FILE");
    std::string formats = "Formats:";
    for (const Sink& sink : sinks()) formats += fmt::format("\n  {:<26}{}", sink.name, sink.help);
    export_runs->footer(formats + "\n");
    history.emplace(app, line.history);
    // Last: a subcommand made later would inherit it.
    app.footer(kFirstSteps);
    for (CLI::App* command : {run, list, export_runs, history->history, history->add, history->show})
      command->set_help_flag("-h,--help", "Print this and exit");
  }

  CLI::App app{kAbout};
  CLI::App* run = nullptr;
  CLI::App* list = nullptr;
  CLI::App* export_runs = nullptr;
  std::optional<HistoryApp> history;
};

constexpr const char* kExpectedCommand = "expected a command: run, list, export or history";

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

// Values that CLI11 takes and the command cannot.
std::string check_values(const CommandLine& line) {
  if (line.command == CommandLine::Command::run) {
    if (line.run.resume && line.run.out_dir.empty())
      return "--resume: expected -o DIR, the folder of the run to go on with";
    if (line.run.resume && line.run.dry_run) return "expected --resume or --dry-run, found both";
    try {
      (void)std::regex(line.run.filter);
    } catch (const std::regex_error& error) {
      return fmt::format("--filter: expected a regular expression, found `{}` ({})",
                         printable(line.run.filter), error.what());
    }
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
  const std::vector<std::string> commands = {"run", "list", "export", "history"};
  if (!first.starts_with("-") && std::find(commands.begin(), commands.end(), first) == commands.end()) {
    return usage_error(
        fmt::format("unknown command `{}`{}", printable(first), suggestion(nearest_name(first, commands))),
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
  line.command = parser.run->parsed()                ? CommandLine::Command::run
                 : parser.list->parsed()             ? CommandLine::Command::list
                 : parser.history->history->parsed() ? CommandLine::Command::history
                                                     : CommandLine::Command::export_runs;
  line.history.action =
      parser.history->add->parsed() ? HistoryOptions::Action::add : HistoryOptions::Action::show;
  line.run.command_line.assign(argv, argv + argc);
  const std::string problem = check_values(line);
  return problem.empty() ? line : usage_error(problem, name());
}

}  // namespace lamina
