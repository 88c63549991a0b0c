// zpair: the command. Parses the line, asks a node, prints. Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a rule.
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "cli/command_line.h"
#include "cli/node_replace.h"
#include "cli/sandbox_start.h"
#include "cli/sizes.h"

namespace zpair::cli {

Result<Context> Globals::context() const {
  if (sandbox.empty()) return Context{Nodes::at_socket(socket), format()};
  ZP_TRY(nodes, Nodes::of_sandbox(sandbox));
  return Context{std::move(nodes), format()};
}

CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& help, const std::string& example) {
  CLI::App* command = parent.add_subcommand(name, help);
  command->footer(example.empty() ? "" : "Example:\n  " + example);
  return command;
}

CLI::Option* add_optional_word(CLI::App& command, const std::string& name, std::string& word, const std::string& help) {
  const auto given = [](std::string& text) { return std::string(text.empty() ? "an empty word names nothing" : ""); };
  return command.add_option(name, word, help)->type_name("")->check(CLI::Validator(given, ""));
}

CLI::Option* add_word(CLI::App& command, const std::string& name, std::string& word, const std::string& help) {
  return add_optional_word(command, name, word, help)->required();
}

CLI::Option* add_size(CLI::App& command, const std::string& name, std::uint64_t& size_bytes, const std::string& help,
                      const std::string& otherwise) {
  auto take = [&size_bytes](const std::string& text) {
    auto parsed = parse_size(text);
    if (!parsed) throw CLI::ValidationError(parsed.error().message);
    size_bytes = *parsed;
  };
  CLI::Option* option = command.add_option_function<std::string>(name, take, help);
  option->type_name(name.starts_with("-") ? "SIZE" : "");
  if (!otherwise.empty()) option->default_str(otherwise);
  return option;
}

Result<void> become_python(const std::string& name, std::vector<std::string> words) {
  const std::string program = own_folder() + "/" + name;
  words.insert(words.begin(), program);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::fflush(nullptr);
  ::execv(program.c_str(), arguments.data());
  const int why = errno;
  if (why == ENOENT && ::access(program.c_str(), F_OK) == 0)
    return fail(ErrorCode::not_found, "{} is written in Python, and /usr/bin/python3 is not here: apt install python3",
                program);
  return fail(ErrorCode::not_found, "cannot run {}: {}", program, ::strerror(why));
}

namespace {

constexpr const char* help_head =
    "zpair keeps ZFS pools on two servers at once: nothing acknowledged is ever lost.\n\n"
    "  zpair status                                          what there is, and what to do\n"
    "  zpair pool create tank-a --owner a --mirror a:/dev/disk/by-id/X,b:/dev/disk/by-id/Y\n"
    "  zpair volume create tank-a/vm1 100G                   served at the same local socket on either node\n"
    "  zpair switchover tank-a                               moves the pool to the other node, without loss\n"
    "  zpair sandbox up /tmp/s                               a whole pair on this machine, to try\n";

constexpr const char* help_foot =
    "zpair COMMAND --help tells more. Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a rule of zero RPO.\n"
    "Manual: zpair(1), zpaird(8).";

template <class Run>
void when_chosen(CLI::App* command, Chosen& chosen, Run run) {
  command->callback([&chosen, run] {
    chosen = [run](const Globals& globals) -> Result<void> {
      ZP_TRY(context, globals.context());
      return run(context);
    };
  });
}

Result<void> read_volume_or_snapshot(const std::string& text) {
  if (text.find('@') == std::string::npos) {
    ZP_CHECK(parse_volume_name(text));
  } else {
    ZP_CHECK(parse_snapshot_name(text));
  }
  return {};
}

CLI::Option* add_pool(CLI::App& command, std::string& pool) {
  return add_word(command, "POOL", pool, "the pool's name");
}
CLI::Option* add_volume(CLI::App& command, const std::string& name, std::string& volume, const std::string& help) {
  return add_word(command, name, volume, help)->check(reads_by(parse_volume_name));
}
CLI::Option* add_snapshot(CLI::App& command, std::string& snapshot) {
  return add_word(command, "POOL/NAME@SNAPSHOT", snapshot, "the snapshot")->check(reads_by(parse_snapshot_name));
}

void add_peer_url(CLI::App& command, std::string& url) {
  add_optional_word(command, "--peer-url", url,
                    "where its etcd listens for its peers from now on (default: where it did)")
      ->type_name("URL");
}

void add_pool_commands(CLI::App& app, Chosen& chosen) {
  CLI::App* pool = add_command(app, "pool", "make, list, check and move whole pools");
  pool->require_subcommand(1);

  for (const bool create : {true, false}) {
    auto options = std::make_shared<PoolCreate>();
    CLI::App* command = add_command(
        *pool, create ? "create" : "add",
        create ? "make a pool of mirrors, each with a leg on either node" : "give a pool further mirrors",
        create ? "zpair pool create tank-a --owner a --mirror a:/dev/disk/by-id/nvme-A0,b:/dev/disk/by-id/nvme-B0"
               : "zpair pool add tank-a --mirror a:/dev/disk/by-id/nvme-A1,b:/dev/disk/by-id/nvme-B1");
    add_word(*command, "NAME", options->name, "the pool's name");
    if (create)
      command->add_option("--owner", options->owner, "the node that is its home")
          ->required()
          ->type_name("NODE")
          ->check(CLI::IsMember({"a", "b"}));
    CLI::Option* mirrors = command->add_option("--mirror", options->mirrors,
                                               "a:DRIVE,b:DRIVE (paths on their nodes); once for each mirror");
    mirrors->type_name("LEGS")->required()->take_all()->expected(1, -1)->allow_extra_args(false)->check(
        reads_by(parse_mirror));
    command->add_flag("--dry-run", options->dry_run, "check everything, change nothing");
    command->add_flag("--force", options->force, "take drives that carry another pool");
    when_chosen(command, chosen, [options, create](const Context& context) {
      return create ? pool_create(context, *options) : pool_add(context, *options);
    });
  }
  when_chosen(add_command(*pool, "list", "one line a pool"), chosen,
              [](const Context& context) { return pool_list(context); });

  struct Simple {
    const char* name;
    const char* help;
    Result<void> (*run)(const Context&, const std::string&);
  };
  for (const Simple& simple :
       {Simple{"destroy", "destroy a pool with all its volumes, at once, and free its drives", pool_destroy},
        Simple{"export", "stop serving a pool on either node, until pool import", pool_export}}) {
    auto name = std::make_shared<std::string>();
    CLI::App* command = add_command(*pool, simple.name, simple.help);
    add_pool(*command, *name);
    when_chosen(command, chosen, [name, run = simple.run](const Context& context) { return run(context, *name); });
  }

  auto scrub_name = std::make_shared<std::string>();
  auto stop = std::make_shared<bool>(false);
  CLI::App* scrub =
      add_command(*pool, "scrub", "read and check everything on all legs; zpair status shows how far it is");
  add_pool(*scrub, *scrub_name);
  scrub->add_flag("-s,--stop", *stop, "stop the running scrub");
  when_chosen(scrub, chosen,
              [scrub_name, stop](const Context& context) { return pool_scrub(context, *scrub_name, *stop); });

  auto options = std::make_shared<PoolImport>();
  CLI::App* import = add_command(*pool, "import", "serve an exported pool again");
  add_pool(*import, options->name);
  CLI::Option* loss = import->add_flag("--accept-data-loss", options->accept_data_loss,
                                       "go on with legs that may lack acknowledged writes; the others are overwritten. "
                                       "Without it the refusal shows each side");
  import
      ->add_flag("--accept-corruption", options->accept_corruption, "and with legs that were in the middle of a resync")
      ->needs(loss);
  when_chosen(import, chosen, [options](const Context& context) { return pool_import(context, *options); });
}

void add_volume_commands(CLI::App& app, Chosen& chosen) {
  CLI::App* volume = add_command(app, "volume", "block devices for virtual machines, served over NBD");
  volume->require_subcommand(1);

  auto options = std::make_shared<VolumeCreate>();
  auto block_size = std::make_shared<std::uint64_t>(0);
  CLI::App* create = add_command(*volume, "create", "make a volume", "zpair volume create tank-a/vm1 100G");
  add_volume(*create, "POOL/NAME", options->name, "the volume");
  add_size(*create, "SIZE", options->size_bytes, "256M, 10G, …: a multiple of its block size", "")->required();
  create->add_flag("--thin", options->thin, "reserve no space: a full pool then answers ENOSPC");
  add_size(*create, "--block-size", *block_size, "4K to 128K, a power of two (default: 16K)", "");
  auto compression = std::make_shared<std::string>();
  add_optional_word(*create, "--compression", *compression, "off, lz4, zstd, … (default: the pool's)")
      ->type_name("NAME");
  when_chosen(create, chosen, [options, block_size, compression](const Context& context) {
    if (*block_size > 0) options->block_size_bytes = *block_size;
    if (!compression->empty()) options->compression = *compression;
    return volume_create(context, *options);
  });
  when_chosen(add_command(*volume, "list", "volumes and where clients find them on either node"), chosen,
              [](const Context& context) { return volume_list(context); });

  auto resize_name = std::make_shared<std::string>();
  auto size = std::make_shared<std::uint64_t>(0);
  CLI::App* resize = add_command(*volume, "resize", "grow a volume", "zpair volume resize tank-a/vm1 200G");
  add_volume(*resize, "POOL/NAME", *resize_name, "the volume");
  add_size(*resize, "SIZE", *size, "the new size", "")->required();
  when_chosen(resize, chosen,
              [resize_name, size](const Context& context) { return volume_resize(context, *resize_name, *size); });

  auto destroy_name = std::make_shared<std::string>();
  CLI::App* destroy = add_command(*volume, "destroy", "destroy a volume and its data, or a snapshot",
                                  "zpair volume destroy tank-a/vm1@monday");
  add_word(*destroy, "POOL/NAME[@SNAPSHOT]", *destroy_name, "the volume or snapshot")
      ->check(reads_by(read_volume_or_snapshot));
  when_chosen(destroy, chosen,
              [destroy_name](const Context& context) { return volume_destroy(context, *destroy_name); });

  auto snapshot_name = std::make_shared<std::string>();
  CLI::App* snapshot = add_command(*volume, "snapshot", "keep what a volume holds at this moment",
                                   "zpair volume snapshot tank-a/vm1@monday");
  add_snapshot(*snapshot, *snapshot_name);
  when_chosen(snapshot, chosen,
              [snapshot_name](const Context& context) { return volume_snapshot(context, *snapshot_name); });

  auto clone_options = std::make_shared<VolumeClone>();
  CLI::App* clone = add_command(*volume, "clone", "make a volume that begins as a snapshot",
                                "zpair volume clone tank-a/vm1@monday tank-a/vm2");
  add_snapshot(*clone, clone_options->snapshot);
  add_volume(*clone, "POOL/NEW", clone_options->name, "the new volume, in the same pool");
  clone->add_flag("--thin", clone_options->thin, "reserve no space: a full pool then answers ENOSPC");
  when_chosen(clone, chosen, [clone_options](const Context& context) { return volume_clone(context, *clone_options); });

  auto rollback_name = std::make_shared<std::string>();
  CLI::App* rollback = add_command(*volume, "rollback",
                                   "make a volume as its newest snapshot is: what was written since is gone; refused "
                                   "while it has clients, or had one in the last 20 s "
                                   "that broke off without a goodbye. End them first: one that comes back later writes "
                                   "what it still holds of the time before",
                                   "zpair volume rollback tank-a/vm1@monday");
  add_snapshot(*rollback, *rollback_name);
  when_chosen(rollback, chosen,
              [rollback_name](const Context& context) { return volume_rollback(context, *rollback_name); });
}

void add_move_commands(CLI::App& app, Chosen& chosen) {
  auto moved = std::make_shared<std::string>();
  auto to = std::make_shared<std::string>();
  CLI::App* over = add_command(app, "switchover", "move a pool to the other node, planned, without loss",
                               "zpair switchover tank-a --to b");
  add_pool(*over, *moved);
  over->add_option("--to", *to, "the node that shall own it (default: the other one)")
      ->type_name("NODE")
      ->check(CLI::IsMember({"a", "b"}));
  when_chosen(over, chosen, [moved, to](const Context& context) { return switchover(context, *moved, *to); });

  auto taken = std::make_shared<std::string>();
  CLI::App* take = add_command(app, "takeover", "take a pool from an owner that is gone (refused while it is healthy)");
  add_pool(*take, *taken);
  when_chosen(take, chosen, [taken](const Context& context) { return takeover(context, *taken); });

  auto returned = std::make_shared<std::string>();
  CLI::App* back = add_command(app, "failback", "bring a pool home, or every pool that is away");
  add_optional_word(*back, "POOL", *returned, "only this one");
  when_chosen(back, chosen, [returned](const Context& context) { return failback(context, *returned); });
}

void add_other_commands(CLI::App& app, Chosen& chosen) {
  auto pool = std::make_shared<std::string>();
  CLI::App* status = add_command(app, "status", "what there is, how it does, and what to do");
  add_optional_word(*status, "POOL", *pool, "only this one");
  when_chosen(status, chosen, [pool](const Context& context) { return show_status(context, *pool); });

  CLI::App* drive = add_command(app, "drive", "the drives that the nodes give to the pair");
  drive->require_subcommand(1);
  when_chosen(add_command(*drive, "list", "every registered drive"), chosen,
              [](const Context& context) { return drive_list(context); });
  struct Replace {
    std::string pool, old_drive, new_drive;
    bool force = false;
  };
  auto words = std::make_shared<Replace>();
  CLI::App* replace =
      add_command(*drive, "replace", "put another drive in the place of a leg's; returns when it resyncs",
                  "zpair drive replace tank-a b:nvme-B0 b:/dev/disk/by-id/nvme-B9");
  add_pool(*replace, words->pool);
  add_word(*replace, "OLD", words->old_drive, "NODE:DRIVE, as zpair status names it")->check(reads_by(parse_drive));
  add_word(*replace, "NEW", words->new_drive, "NODE:PATH of the new drive")->check(reads_by(parse_drive));
  replace->add_flag("--force", words->force, "take a drive that carries another pool");
  when_chosen(replace, chosen, [words](const Context& context) {
    return drive_replace(context, words->pool, words->old_drive, words->new_drive, words->force);
  });

  struct Move {
    std::string pool, drive;
    bool node_is_off = false;
  };
  auto moved = std::make_shared<Move>();
  CLI::App* move = add_command(*drive, "move",
                               "a leg's drive was carried from one server to the other, while nobody serves its pool",
                               "zpair drive move tank-a b:/dev/disk/by-id/nvme-A0");
  add_pool(*move, moved->pool);
  add_word(*move, "DRIVE", moved->drive, "NODE:PATH where it is now")->check(reads_by(parse_drive));
  move->add_flag("--node-is-off", moved->node_is_off,
                 "the server that it came from does not answer, and is off for sure");
  when_chosen(move, chosen, [moved](const Context& context) {
    return drive_move(context, moved->pool, moved->drive, moved->node_is_off);
  });

  CLI::App* store = add_command(app, "store", "the quorum store (etcd)");
  store->require_subcommand(1);
  when_chosen(add_command(*store, "status", "its members and the pools' records"), chosen,
              [](const Context& context) { return store_status(context); });
  struct Readmit {
    std::string member, peer_url;
  };
  auto lost = std::make_shared<Readmit>();
  CLI::App* readmit = add_command(*store, "readmit", "let a member that lost its data vote again");
  add_word(*readmit, "MEMBER", lost->member, "a, b or witness")->check(CLI::IsMember({"a", "b", "witness"}));
  add_peer_url(*readmit, lost->peer_url);
  when_chosen(readmit, chosen,
              [lost](const Context& context) { return store_readmit(context, lost->member, lost->peer_url); });
  struct Rebuild {
    std::vector<std::string> pools;
    bool accept_data_loss = false;
  };
  auto rebuilt = std::make_shared<Rebuild>();
  CLI::App* rebuild =
      add_command(*store, "rebuild", "give a store that is new and empty the records that the nodes still have",
                  "zpair store rebuild");
  rebuild->add_option("POOL", rebuilt->pools, "only these")->type_name("");
  rebuild->add_flag("--accept-data-loss", rebuilt->accept_data_loss,
                    "go by this node's copies alone: what the other one acknowledged alone is lost");
  when_chosen(rebuild, chosen, [rebuilt](const Context& context) {
    return store_rebuild(context, rebuilt->pools, rebuilt->accept_data_loss);
  });

  CLI::App* witness = add_command(app, "witness", "the third vote of the store");
  witness->require_subcommand(1);
  auto witness_url = std::make_shared<std::string>();
  CLI::App* new_witness = add_command(*witness, "replace", "the witness is lost: a new machine takes its place",
                                      "zpair witness replace --peer-url http://10.10.0.4:2380");
  add_peer_url(*new_witness, *witness_url);
  when_chosen(new_witness, chosen,
              [witness_url](const Context& context) { return witness_replace(context, *witness_url); });

  CLI::App* node = add_command(app, "node", "a server of the pair");
  node->require_subcommand(1);
  auto server = std::make_shared<NodeReplace>();
  CLI::App* new_server =
      add_command(*node, "replace", "a server is lost: new hardware takes its place, first its vote, then its drives",
                  "zpair node replace b   and, when its zpaird runs,   zpair node replace b /dev/disk/by-id/nvme-B*");
  add_word(*new_server, "NODE", server->node, "a or b")->check(CLI::IsMember({"a", "b"}));
  new_server->add_option("PATH", server->paths, "its drives, there: as many as it has lost, in any order")
      ->type_name("");
  add_peer_url(*new_server, server->peer_url);
  new_server->add_flag("--force", server->force, "take drives that carry another pool");
  when_chosen(new_server, chosen, [server](const Context& context) { return node_replace(context, *server); });

  auto follow = std::make_shared<bool>(false);
  CLI::App* shows_events = add_command(app, "events", "what happened");
  shows_events->add_flag("-f,--follow", *follow, "and what happens from now on, until Ctrl-C");
  when_chosen(shows_events, chosen, [follow](const Context& context) { return events(context, *follow); });
}

// The innermost command that the line names.
const CLI::App& command_of(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  return *at;
}

// One line: what is wrong, and whose help to read.
std::string usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = command_of(app);
  std::string help;
  for (const CLI::App* at = &command; at != nullptr; at = at->get_parent()) help = at->get_name() + " " + help;
  // CLI11 tells of what is missing before it tells of what it did not understand.
  const std::vector<std::string> unknown = app.remaining(true);
  std::string what = error.what();
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && !unknown.empty()) {
    const bool group = !command.get_subcommands([](const CLI::App*) { return true; }).empty();
    what = fmt::format("{} '{}'", group ? "there is no command" : "there is no place for", unknown.front());
  }
  return fmt::format("{} (see {}--help)", what, help);
}

int run(int argument_count, char** arguments) {
  CLI::App app(help_head, "zpair");
  Globals globals;
  Chosen chosen;
  app.fallthrough();  // --json may stand at the end
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("zpair ") + ZPAIR_VERSION);
  auto* socket =
      app.add_option("--socket", globals.socket, "the zpaird to ask")->type_name("PATH")->capture_default_str();
  app.footer(help_foot);
  add_optional_word(app, "--sandbox", globals.sandbox, "ask the nodes of the sandbox in this folder")
      ->type_name("DIR")
      ->excludes(socket);
  app.add_flag("--json", globals.json, "print JSON (docs/api.md)");
  add_other_commands(app, chosen);
  add_pool_commands(app, chosen);
  add_volume_commands(app, chosen);
  add_move_commands(app, chosen);
  add_bench_commands(app, chosen);
  add_drill_commands(app, chosen);
  add_tune_commands(app, chosen);
  add_sandbox_commands(app, chosen);
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    print_error({ErrorCode::invalid, usage_error(app, error)});
    return 2;
  }
  auto done = chosen(globals);
  if (done) return 0;
  print_error(done.error());
  return exit_code_of(done.error());
}

}  // namespace
}  // namespace zpair::cli

int main(int argument_count, char** arguments) {
  ::signal(SIGPIPE, SIG_IGN);
  return zpair::cli::run(argument_count, arguments);
}
