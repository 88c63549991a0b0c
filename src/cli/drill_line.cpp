// `zpair drill`: checks its line as every command does, then becomes zpair-drill (src/drill), which lies beside this program.
#include <stdlib.h>
#include <unistd.h>

#include <memory>

#include "cli/command_line.h"
#include "cli/sandbox_start.h"

namespace zpair::cli {

namespace {

constexpr const char* drill_help =
    "rehearse failures on a running pair, with a volume of its own and a checked load on it, and certify that nothing "
    "was "
    "lost";
constexpr const char* drill_examples =
    "zpair drill list shows the drills. On servers only those that need no sandbox; each stalls guests as a failover "
    "does, and\n"
    "asks first.\n"
    "Examples:\n"
    "  zpair --sandbox /tmp/s drill all --pool tank-a --out /tmp/certificate\n"
    "  zpair drill switchover --pool tank-a --yes --out /var/lib/zpair/drill\n"
    "  zpair drill verify /var/lib/zpair/drill/certificate.json";

struct DrillLine {
  std::vector<std::string> names;
  std::string pool, out, key;
  bool yes = false;
};

// Where a drill notes what would mend the pair, should it be interrupted: of a sandbox, in its folder.
std::string state_folder(const Globals& globals) {
  if (!globals.sandbox.empty()) return globals.sandbox;
  if (::geteuid() == 0) return "/var/lib/zpair";
  const char* home = ::getenv("HOME");
  return std::string(home != nullptr ? home : "/tmp") + "/.local/state/zpair";
}

Result<void> run_drill(const Globals& globals, const DrillLine& line) {
  ZP_TRY(context, globals.context());
  if (context.nodes.places().empty()) ZP_CHECK(context.nodes.get("/v1/status"));  // for its error
  std::vector<std::string> words = {"run"};
  words.insert(words.end(), line.names.begin(), line.names.end());
  const auto add = [&](const char* option, const std::string& value) {
    words.push_back(option);
    words.push_back(value);
  };
  for (const Nodes::Place& place : context.nodes.places()) add("--node", place.name + "=" + place.socket);
  add("--tools", own_folder());
  add("--state", state_folder(globals));
  if (globals.sandbox.empty()) {
    add("--socket", globals.socket);
  } else {
    add("--sandbox", globals.sandbox);
  }
  if (!line.pool.empty()) add("--pool", line.pool);
  if (!line.out.empty()) add("--out", line.out);
  if (!line.key.empty()) add("--key", line.key);
  if (line.yes) words.push_back("--yes");
  if (globals.json) words.push_back("--json");
  return become_python("zpair-drill", std::move(words));
}

}  // namespace

void add_drill_commands(CLI::App& app, Chosen& chosen) {
  auto line = std::make_shared<DrillLine>();
  CLI::App* drill = add_command(app, "drill", drill_help);
  drill->footer(drill_examples);
  drill->add_option("NAME", line->names, "the drills, in the order of zpair drill list; all: every one")->type_name("");
  add_optional_word(*drill, "--pool", line->pool, "the pool (default: the only one)")->type_name("POOL");
  drill->add_flag("--yes", line->yes, "do not ask: guests may wait for as long as a failover takes");
  add_optional_word(*drill, "--out", line->out, "write certificate.json and certificate.html into this folder")
      ->type_name("DIR");
  add_optional_word(
      *drill, "--key", line->key,
      "seal with this Ed25519 key (PEM), made when it is not there (default: ~/.config/zpair/drill-key.pem)")
      ->type_name("FILE");

  CLI::App* list = add_command(*drill, "list", "the drills: what each does, needs, and how long clients may wait");
  list->callback([&chosen] {
    chosen = [](const Globals& globals) {
      std::vector<std::string> words = {"list"};
      if (globals.json) words.push_back("--json");
      return become_python("zpair-drill", std::move(words));
    };
  });

  struct Schedule {
    std::vector<std::string> names;
    std::string pool, calendar = "Sun 03:00", dir = "/etc/systemd/system", key;
  };
  auto later = std::make_shared<Schedule>();
  CLI::App* schedule = add_command(*drill, "schedule", "write a systemd timer that rehearses again and again",
                                   "zpair drill schedule switchover --pool tank-a --on-calendar 'Sun 03:00'");
  schedule->add_option("NAME", later->names, "the drills: only those that need no sandbox")->type_name("")->required();
  add_optional_word(*schedule, "--pool", later->pool, "the pool")->type_name("POOL")->required();
  add_optional_word(*schedule, "--on-calendar", later->calendar, "when, as systemd.time(7) says it")
      ->type_name("TIME")
      ->capture_default_str();
  add_optional_word(*schedule, "--dir", later->dir, "where the two units go")->type_name("DIR")->capture_default_str();
  add_optional_word(*schedule, "--key", later->key,
                    "the key that seals the certificates (default: /var/lib/zpair/drill-key.pem)")
      ->type_name("FILE");
  schedule->callback([later, &chosen] {
    chosen = [later](const Globals& globals) {
      std::vector<std::string> words = {"schedule"};
      words.insert(words.end(), later->names.begin(), later->names.end());
      words.insert(words.end(), {"--pool", later->pool, "--calendar", later->calendar, "--dir", later->dir, "--socket",
                                 globals.socket, "--tools", own_folder()});
      if (!later->key.empty()) words.insert(words.end(), {"--key", later->key});
      return become_python("zpair-drill", std::move(words));
    };
  });

  auto file = std::make_shared<std::string>();
  auto key = std::make_shared<std::string>();
  CLI::App* verify = add_command(*drill, "verify", "whether a certificate is as it was sealed, and by which key",
                                 "zpair drill verify certificate.json");
  add_word(*verify, "FILE", *file, "certificate.json, or its folder");
  add_optional_word(*verify, "--key", *key, "it must be sealed by this key (its public or private PEM)")
      ->type_name("FILE");
  verify->callback([file, key, &chosen] {
    chosen = [file, key](const Globals& globals) {
      std::vector<std::string> words = {"verify", *file};
      if (!key->empty()) words.insert(words.end(), {"--key", *key});
      if (globals.json) words.push_back("--json");
      return become_python("zpair-drill", std::move(words));
    };
  });
  drill->callback([drill, line, &chosen] {
    if (!drill->get_subcommands().empty()) return;
    if (line->names.empty()) throw CLI::RequiredError("NAME");
    chosen = [line](const Globals& globals) { return run_drill(globals, *line); };
  });
}

}  // namespace zpair::cli
