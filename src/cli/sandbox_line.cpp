#include "cli/command_line.h"

#include <cstdio>
#include <memory>

#include <fmt/ranges.h>

#include "cli/demo.h"
#include "cli/sandbox_commands.h"
#include "cli/sandbox_start.h"

namespace zpair::cli {

namespace {

constexpr const char* sandbox_examples =
    "A whole pair on this machine, without root, in a folder of yours: two nodes, three etcd members, two paths, "
    "drives as\n"
    "sparse files. For trying, testing and measuring.\n"
    "  zpair sandbox up /tmp/s                      makes one, or resumes it\n"
    "  zpair --sandbox /tmp/s status                any command against it\n"
    "  zpair sandbox kill /tmp/s a                  node a dies (kill -9); start brings it back\n"
    "  zpair sandbox cut /tmp/s path1               holds bytes as a dead switch does; heal delivers them late\n"
    "  zpair sandbox down /tmp/s --delete";

constexpr const char* fault_help =
    "Faults, several with ';' between them:\n"
    "  write-errors on     flush-errors on     torn-writes on     wrong-data on     until 'off' or clear\n"
    "  read-errors OFFSET+SIZE    these bytes cannot be read, until they are written\n"
    "  slow MS                    every answer comes so late        latency-us READ WRITE FLUSH\n"
    "  parallel N                 so many requests at once          hang on\n"
    "  lose-cache                 what was not flushed is gone      tear-cache    some of it is\n"
    "  clear                      no fault any more\n"
    "Example:\n"
    "  zpair sandbox fault /tmp/s b:tank-a-00 'slow 5000'";

constexpr const char* target_help = "a, b, both, witness, zpaird:a, etcd:a or pool:NAME";
constexpr int longest_wait_s = 86400;

struct Words {
  std::string dir;
  std::string target;
  std::vector<std::string> fault;
  SandboxOptions options;
  bool remove = false;
  bool reset = false;
  bool in_sync = false;
  std::int64_t timeout_s = 60;
};

CLI::App* with_dir(CLI::App& sandbox, const std::string& name, const std::string& help,
                   const std::shared_ptr<Words>& words, const std::string& example = "") {
  CLI::App* command = add_command(sandbox, name, help, example);
  add_word(*command, "DIR", words->dir, "the sandbox's folder");
  return command;
}

// A change that says nothing by itself answers {} to --json, as the API does.
Result<void> answered(const Globals& globals, Result<void> done) {
  if (done && globals.json) std::puts("{}");
  return done;
}

void add_up(CLI::App& sandbox, const std::shared_ptr<Words>& words, Chosen& chosen) {
  CLI::App* up =
      with_dir(sandbox, "up", "make a sandbox, or resume the one that is there; returns when its pools serve", words,
               "zpair sandbox up /tmp/s --mirrors 3 --volume-size 1G");
  SandboxOptions& options = words->options;
  up->add_option("--pools", options.pools, "pools: tank-a owned by a, tank-b by b, …")
      ->type_name("N")
      ->capture_default_str();
  up->add_option("--mirrors", options.mirrors, "mirrors of each pool, one leg on each node")
      ->type_name("N")
      ->capture_default_str();
  add_size(*up, "--drive-size", options.drive_size_bytes, "size of each drive file (sparse)", "512M");
  up->add_option("--volumes", options.volumes, "volumes of each pool: vm1, vm2, …")
      ->type_name("N")
      ->capture_default_str();
  add_size(*up, "--volume-size", options.volume_size_bytes, "size of each volume", "256M");
  up->add_flag("--volatile-cache", options.volatile_cache,
               "drives keep unflushed writes in memory: a kill is a power cut");
  add_optional_word(
      *up, "--drive-model", options.drive_model,
      "nvme: latencies and parallelism of a data-centre drive, in front of the files (they then do not survive a "
      "crash of this machine)")
      ->type_name("MODEL")
      ->check(CLI::IsMember({"nvme"}));
  up->add_option("--link-latency", options.link_latency_ms, "milliseconds added on the paths, each way")
      ->type_name("MS")
      ->capture_default_str();
  up->add_option("--partner-wait", options.partner_wait_s, "seconds that a starting node waits for its partner")
      ->type_name("S")
      ->capture_default_str();
  up->add_flag("--direct-paths", options.direct_paths, "paths without the switch, for measuring: they cannot be cut");
  up->callback([words, &chosen] {
    if (auto good = check_options(words->options); !good) throw CLI::ValidationError(good.error().message);
    chosen = [words](const Globals& globals) { return sandbox_up(words->dir, words->options, globals.format()); };
  });
}

void add_process_command(CLI::App& sandbox, const std::string& name, const std::string& help, Chosen& chosen,
                         Result<void> (*run)(const std::string&, const std::string&)) {
  auto words = std::make_shared<Words>();
  CLI::App* command = with_dir(sandbox, name, help, words);
  add_word(*command, "TARGET", words->target, target_help)->check(reads_by(matcher_of));
  command->callback([words, run, &chosen] {
    chosen = [words, run](const Globals& globals) { return answered(globals, run(words->dir, words->target)); };
  });
}

void add_link_commands(CLI::App& sandbox, Chosen& chosen) {
  auto cut_words = std::make_shared<Words>();
  CLI::App* cut = with_dir(sandbox, "cut", "hold what a link carries, without closing anything", cut_words,
                           "zpair sandbox cut /tmp/s 'path1:a>b'");
  add_word(*cut, "LINK", cut_words->target,
           "path1, path2, paths, store:a, store:b, store:witness; one direction: path1:a>b");
  cut->callback([cut_words, &chosen] {
    chosen = [cut_words](const Globals& globals) {
      return answered(globals, sandbox_cut(cut_words->dir, cut_words->target));
    };
  });

  auto heal_words = std::make_shared<Words>();
  CLI::App* heal = with_dir(sandbox, "heal", "deliver late what a cut held", heal_words);
  add_word(*heal, "LINK", heal_words->target, "as for cut");
  heal->add_flag("--reset", heal_words->reset, "drop what was held and close the connections instead");
  heal->callback([heal_words, &chosen] {
    chosen = [heal_words](const Globals& globals) {
      return answered(globals, sandbox_heal(heal_words->dir, heal_words->target,
                                            heal_words->reset ? Switch::Heal::reset : Switch::Heal::deliver_late));
    };
  });
}

void add_demo(CLI::App& sandbox, Chosen& chosen) {
  auto options = std::make_shared<DemoOptions>();
  CLI::App* demo = add_command(sandbox, "demo", "a pair under load, and everything that may go wrong with it");
  // Not the global --json, which is a flag: here it names a file.
  add_optional_word(*demo, "--json", options->json_file, "write the result there, for programs")->type_name("FILE");
  add_optional_word(*demo, "--dir", options->dir,
                    "work in this folder, which stays (default: one under /tmp, removed at the end)")
      ->type_name("DIR");
  demo->add_option("--mirrors", options->mirrors, "of each pool")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(1, 99));
  demo->callback(
      [options, &chosen] { chosen = [options](const Globals&) -> Result<void> { std::exit(run_demo(*options)); }; });
}

void add_rest(CLI::App& sandbox, Chosen& chosen) {
  auto down_words = std::make_shared<Words>();
  CLI::App* down = with_dir(sandbox, "down", "export the pools and stop everything; the folder stays", down_words);
  down->add_flag("--delete", down_words->remove, "stop everything at once and remove the folder");
  down->callback([down_words, &chosen] {
    chosen = [down_words](const Globals& globals) {
      return answered(globals,
                      sandbox_down(down_words->dir, down_words->remove ? Down::delete_folder : Down::keep_folder,
                                   globals.format()));
    };
  });

  auto status_words = std::make_shared<Words>();
  CLI::App* status = with_dir(sandbox, "status", "processes, links and pools", status_words);
  status->callback([status_words, &chosen] {
    chosen = [status_words](const Globals& globals) { return sandbox_status(status_words->dir, globals.format()); };
  });

  auto wait_words = std::make_shared<Words>();
  CLI::App* wait = with_dir(sandbox, "wait", "wait until every pool is served", wait_words,
                            "zpair sandbox wait /tmp/s --in-sync --timeout 30");
  wait->add_flag("--in-sync", wait_words->in_sync, "and every leg is in sync");
  wait->add_option("--timeout", wait_words->timeout_s, "seconds")
      ->type_name("S")
      ->capture_default_str()
      ->check(CLI::Range(0, longest_wait_s));
  wait->callback([wait_words, &chosen] {
    chosen = [wait_words](const Globals& globals) {
      return answered(globals, sandbox_wait(wait_words->dir, wait_words->in_sync ? WaitFor::in_sync : WaitFor::served,
                                            wait_words->timeout_s));
    };
  });

  auto fault_words = std::make_shared<Words>();
  CLI::App* fault = with_dir(sandbox, "fault", "give a drive a fault", fault_words);
  fault->footer(fault_help);
  add_word(*fault, "DRIVE", fault_words->target, "NODE:DRIVE, as zpair status names it")->check(reads_by(parse_drive));
  fault->add_option("FAULT", fault_words->fault, "what it shall do from now on")
      ->type_name("")
      ->required()
      ->expected(1, -1);
  fault->callback([fault_words, &chosen] {
    chosen = [fault_words](const Globals& globals) {
      return answered(globals, sandbox_fault(fault_words->dir, fault_words->target,
                                             fmt::format("{}", fmt::join(fault_words->fault, " "))));
    };
  });
}

}  // namespace

void add_sandbox_commands(CLI::App& app, Chosen& chosen) {
  CLI::App* sandbox =
      add_command(app, "sandbox", "a whole pair on this machine, without root, to try, test and measure");
  sandbox->require_subcommand(1);
  sandbox->footer(sandbox_examples);
  add_up(*sandbox, std::make_shared<Words>(), chosen);
  add_rest(*sandbox, chosen);
  add_demo(*sandbox, chosen);
  add_process_command(*sandbox, "kill", "end at once (kill -9); returns when the processes are gone", chosen,
                      sandbox_kill);
  add_process_command(*sandbox, "start", "start what does not run; returns when it answers", chosen, sandbox_start);
  auto wiped = std::make_shared<Words>();
  CLI::App* wipe =
      with_dir(*sandbox, "wipe", "empty the disk of a part that does not run: what a new machine has in its place",
               wiped, "zpair sandbox kill /tmp/s b; zpair sandbox wipe /tmp/s b");
  add_word(*wipe, "TARGET", wiped->target,
           "a or b (state, etcd, drives), witness, etcd:a, zpaird:a (state only), store (all members: a new store)");
  wipe->callback([wiped, &chosen] {
    chosen = [wiped](const Globals& globals) { return answered(globals, sandbox_wipe(wiped->dir, wiped->target)); };
  });
  add_process_command(*sandbox, "pause", "stop them where they are (SIGSTOP)", chosen, sandbox_pause);
  add_process_command(*sandbox, "resume", "let them go on (SIGCONT)", chosen, sandbox_resume);
  add_link_commands(*sandbox, chosen);

  CLI::App* runs_switch = app.add_subcommand("sandbox-switch", "")->group("");  // hidden: started by sandbox up
  auto plan = std::make_shared<std::string>();
  runs_switch->add_option("PLAN", *plan)->required();
  runs_switch->callback(
      [plan, &chosen] { chosen = [plan](const Globals&) -> Result<void> { std::exit(run_switch(*plan)); }; });
}

}  // namespace zpair::cli
