// `zpair tune`: checks its line as every command does, then becomes zpair-tune (src/tune), which lies beside this program.
#include <memory>

#include "cli/command_line.h"
#include "cli/sandbox_start.h"

namespace zpair::cli {

namespace {

constexpr const char* tune_examples =
    "A setting is the pool's own: it has it on either node, and after every import.\n"
    "Profiles: stock (OpenZFS's defaults), nvme, or a file of the same form.\n"
    "Examples:\n"
    "  zpair tune show --profile nvme\n"
    "  zpair tune try nvme --for randwrite-4k-j8,seqread-1m-j1\n"
    "  zpair tune apply nvme;  zpair tune apply zfs_txg_timeout=2 zfs_delay_scale=default;  zpair tune undo\n"
    "  zpair tune search --for randwrite-4k-j16 --minutes 30 --out /var/tmp/search";

struct TuneLine {
  std::vector<std::string> words;
  std::string pool, profile, wanted, guard, names, out;
  double minutes = 0, seconds = 0, harm_percent = 0;
  int pairs = 0;
};

Result<void> run_tune(const Globals& globals, const std::string& command, const TuneLine& line) {
  ZP_TRY(context, globals.context());
  if (context.nodes.places().empty()) ZP_CHECK(context.nodes.get("/v1/status"));  // for its error
  std::vector<std::string> words = {command};
  words.insert(words.end(), line.words.begin(), line.words.end());
  const auto add = [&](const char* option, const std::string& value) {
    if (value.empty()) return;
    words.push_back(option);
    words.push_back(value);
  };
  for (const Nodes::Place& place : context.nodes.places()) add("--node", place.name + "=" + place.socket);
  add("--pool", line.pool);
  add("--profile", line.profile);
  add("--for", line.wanted);
  add("--guard", line.guard);
  add("--names", line.names);
  add("--out", line.out);
  if (line.minutes > 0) add("--minutes", fmt::format("{}", line.minutes));
  if (line.seconds > 0) add("--seconds", fmt::format("{}", line.seconds));
  if (line.pairs > 0) add("--pairs", std::to_string(line.pairs));
  if (line.harm_percent > 0) add("--harm", fmt::format("{}", line.harm_percent));
  if (globals.json) words.push_back("--json");
  return become_python("zpair-tune", std::move(words));
}

CLI::App* add_one(CLI::App& tune, Chosen& chosen, const std::string& name, const std::string& help,
                  const std::shared_ptr<TuneLine>& line) {
  CLI::App* command = add_command(tune, name, help);
  add_optional_word(*command, "--pool", line->pool, "the pool (default: the only one)")->type_name("POOL");
  command->callback([name, line, &chosen] {
    chosen = [name, line](const Globals& globals) { return run_tune(globals, name, *line); };
  });
  return command;
}

void add_wanted(CLI::App& command, const std::shared_ptr<TuneLine>& line) {
  command.add_option("SETTINGS", line->words, "a profile, or NAME=VALUE ...; NAME=default")->type_name("")->required();
}

void add_measuring(CLI::App& command, const std::shared_ptr<TuneLine>& line) {
  add_optional_word(command, "--for", line->wanted, "the cells that matter, as zpair bench names them")
      ->type_name("CELLS");
  command.add_option("--pairs", line->pairs, "turns of each (default: 5)")->type_name("N")->check(CLI::Range(2, 100));
  command.add_option("--seconds", line->seconds, "of each measurement (default: 2)")
      ->type_name("S")
      ->check(CLI::Range(0.5, 600.0));
}

}  // namespace

void add_tune_commands(CLI::App& app, Chosen& chosen) {
  CLI::App* tune =
      add_command(app, "tune", "OpenZFS's settings: profiles, what they gain, and a search for better ones");
  tune->require_subcommand(1);
  tune->footer(tune_examples);

  auto shown = std::make_shared<TuneLine>();
  CLI::App* show =
      add_one(*tune, chosen, "show", "every setting that can be reached: value, default, unit, meaning", shown);
  add_optional_word(*show, "--profile", shown->profile, "beside what this profile says")->type_name("PROFILE");

  auto compared = std::make_shared<TuneLine>();
  add_wanted(*add_one(*tune, chosen, "diff", "what would change", compared), compared);
  auto applied = std::make_shared<TuneLine>();
  add_wanted(*add_one(*tune, chosen, "apply", "in force at once, and the pool's own from then on", applied), applied);
  add_one(*tune, chosen, "undo", "take the last change back (ten are kept)", std::make_shared<TuneLine>());

  auto tried = std::make_shared<TuneLine>();
  CLI::App* trial = add_one(*tune, chosen, "try", "measure settings in turns with those of now, which stay", tried);
  add_wanted(*trial, tried);
  add_measuring(*trial, tried);

  auto searched = std::make_shared<TuneLine>();
  CLI::App* search = add_one(*tune, chosen, "search",
                             "try the values that a profile names, one after the other, and keep what gains", searched);
  add_measuring(*search, searched);
  add_optional_word(*search, "--guard", searched->guard, "cells that must not lose")->type_name("CELLS");
  add_optional_word(*search, "--names", searched->names, "only these settings, comma-separated")->type_name("LIST");
  add_optional_word(*search, "--profile", searched->profile, "whose values are tried (default: nvme)")
      ->type_name("PROFILE");
  add_optional_word(*search, "--out", searched->out, "the search's state and report; the same command goes on with it")
      ->type_name("DIR");
  search->add_option("--minutes", searched->minutes, "end after so long")
      ->type_name("M")
      ->check(CLI::Range(0.1, 10000.0));
  search->add_option("--harm", searched->harm_percent, "percent that a cell may lose at most (default: 3)")
      ->type_name("P")
      ->check(CLI::Range(0.1, 50.0));
}

}  // namespace zpair::cli
