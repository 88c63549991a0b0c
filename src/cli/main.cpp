// zpair: the command. Parses the line, asks a node, prints. Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a rule.
#include <signal.h>

#include <memory>

#include "cli/command_line.h"
#include "cli/sizes.h"

namespace zpair::cli {

Result<Context> Globals::context() const {
  if (sandbox.empty()) return Context{Nodes::at_socket(socket), format()};
  ZP_TRY(nodes, Nodes::of_sandbox(sandbox));
  return Context{std::move(nodes), format()};
}

CLI::Option* add_size(CLI::App& command, const std::string& name, std::uint64_t& size_bytes, const std::string& help, const std::string& otherwise) {
  auto take = [&size_bytes](const std::string& text) {
    auto parsed = parse_size(text);
    if (!parsed) throw CLI::ValidationError(parsed.error().message);
    size_bytes = *parsed;
  };
  CLI::Option* option = command.add_option_function<std::string>(name, take, help);
  option->type_name("SIZE");
  if (!otherwise.empty()) option->default_str(otherwise);
  return option;
}

namespace {

constexpr const char* help_head =
    "zpair keeps ZFS pools on two servers at once: nothing acknowledged is ever lost.\n\n"
    "  zpair status                                          what there is, and what to do\n"
    "  zpair pool create tank-a --owner a --mirror a:/dev/disk/by-id/X,b:/dev/disk/by-id/Y\n"
    "  zpair volume create tank-a/vm1 100G                   served at the same local socket on either node\n"
    "  zpair switchover tank-a                               moves the pool to the other node, without loss\n"
    "  zpair sandbox up /tmp/s                               a whole pair on this machine, to try\n";

template <class Run>
void when_chosen(CLI::App* command, Chosen& chosen, Run run) {
  command->callback([&chosen, run] {
    chosen = [run](const Globals& globals) -> Result<void> {
      ZP_TRY(context, globals.context());
      return run(context);
    };
  });
}

CLI::Option* named(CLI::App* command, const char* what, std::string& into) { return command->add_option(what, into)->required(); }

void add_pool_commands(CLI::App& app, Chosen& chosen) {
  CLI::App* pool = app.add_subcommand("pool", "make, list, check and move whole pools");
  pool->require_subcommand(1);

  for (const bool create : {true, false}) {
    auto options = std::make_shared<PoolCreate>();
    CLI::App* command = pool->add_subcommand(create ? "create" : "add", create ? "make a pool of mirrors, each with a leg on either node" : "give a pool further mirrors");
    named(command, "NAME", options->name);
    if (create) command->add_option("--owner", options->owner, "the node that is its home")->required()->check(CLI::IsMember({"a", "b"}));
    command->add_option("--mirror", options->mirrors, "a:DRIVE,b:DRIVE; once for each mirror")->required()->take_all()->expected(1, -1)->allow_extra_args(false);
    command->add_flag("--dry-run", options->dry_run, "check everything, change nothing");
    command->add_flag("--force", options->force, "take drives that carry another pool");
    when_chosen(command, chosen, [options, create](const Context& context) { return create ? pool_create(context, *options) : pool_add(context, *options); });
  }
  when_chosen(pool->add_subcommand("list", "one line a pool"), chosen, [](const Context& context) { return pool_list(context); });

  struct Simple {
    const char* name;
    const char* help;
    Result<void> (*run)(const Context&, const std::string&);
  };
  for (const Simple& simple : {Simple{"destroy", "destroy a pool and free its drives", pool_destroy},
                               Simple{"export", "stop serving a pool on either node, until pool import", pool_export}}) {
    auto name = std::make_shared<std::string>();
    CLI::App* command = pool->add_subcommand(simple.name, simple.help);
    named(command, "NAME", *name);
    when_chosen(command, chosen, [name, run = simple.run](const Context& context) { return run(context, *name); });
  }

  auto scrub_name = std::make_shared<std::string>();
  auto stop = std::make_shared<bool>(false);
  CLI::App* scrub = pool->add_subcommand("scrub", "read and check everything on all legs");
  named(scrub, "NAME", *scrub_name);
  scrub->add_flag("-s,--stop", *stop, "stop the running scrub");
  when_chosen(scrub, chosen, [scrub_name, stop](const Context& context) { return pool_scrub(context, *scrub_name, *stop); });

  auto options = std::make_shared<PoolImport>();
  CLI::App* import = pool->add_subcommand("import", "serve an exported pool again");
  named(import, "NAME", options->name);
  import->add_flag("--accept-data-loss", options->accept_data_loss, "go on with legs that may lack acknowledged writes; the others are overwritten");
  import->add_flag("--accept-corruption", options->accept_corruption, "and with legs that were in the middle of a resync");
  when_chosen(import, chosen, [options](const Context& context) { return pool_import(context, *options); });
}

void add_volume_commands(CLI::App& app, Chosen& chosen) {
  CLI::App* volume = app.add_subcommand("volume", "block devices for virtual machines, served over NBD");
  volume->require_subcommand(1);

  auto options = std::make_shared<VolumeCreate>();
  auto block_size = std::make_shared<std::uint64_t>(0);
  auto compression = std::make_shared<std::string>();
  CLI::App* create = volume->add_subcommand("create", "zpair volume create tank-a/vm1 100G");
  named(create, "POOL/NAME", options->name);
  add_size(*create, "SIZE", options->size_bytes, "256M, 10G, …", "")->required();
  create->add_flag("--thin", options->thin, "reserve no space: a full pool then answers ENOSPC");
  add_size(*create, "--block-size", *block_size, "4K to 128K, a power of two", "");
  create->add_option("--compression", *compression, "off, lz4, zstd, …");
  when_chosen(create, chosen, [options, block_size, compression](const Context& context) {
    if (*block_size > 0) options->block_size_bytes = *block_size;
    if (!compression->empty()) options->compression = *compression;
    return volume_create(context, *options);
  });
  when_chosen(volume->add_subcommand("list", "volumes and where clients find them on either node"), chosen, [](const Context& context) { return volume_list(context); });

  auto resize_name = std::make_shared<std::string>();
  auto size = std::make_shared<std::uint64_t>(0);
  CLI::App* resize = volume->add_subcommand("resize", "grow a volume");
  named(resize, "POOL/NAME", *resize_name);
  add_size(*resize, "SIZE", *size, "the new size", "")->required();
  when_chosen(resize, chosen, [resize_name, size](const Context& context) { return volume_resize(context, *resize_name, *size); });

  auto destroy_name = std::make_shared<std::string>();
  CLI::App* destroy = volume->add_subcommand("destroy", "destroy a volume and its data, or a snapshot");
  named(destroy, "POOL/NAME[@SNAPSHOT]", *destroy_name);
  when_chosen(destroy, chosen, [destroy_name](const Context& context) { return volume_destroy(context, *destroy_name); });

  auto snapshot_name = std::make_shared<std::string>();
  CLI::App* snapshot = volume->add_subcommand("snapshot", "zpair volume snapshot tank-a/vm1@monday");
  named(snapshot, "POOL/NAME@SNAPSHOT", *snapshot_name);
  when_chosen(snapshot, chosen, [snapshot_name](const Context& context) { return volume_snapshot(context, *snapshot_name); });

  auto clone_options = std::make_shared<VolumeClone>();
  CLI::App* clone = volume->add_subcommand("clone", "make a volume that begins as a snapshot: zpair volume clone tank-a/vm1@monday tank-a/vm2");
  named(clone, "POOL/NAME@SNAPSHOT", clone_options->snapshot);
  named(clone, "POOL/NEW", clone_options->name);
  clone->add_flag("--thin", clone_options->thin, "reserve no space: a full pool then answers ENOSPC");
  when_chosen(clone, chosen, [clone_options](const Context& context) { return volume_clone(context, *clone_options); });

  auto rollback_name = std::make_shared<std::string>();
  CLI::App* rollback = volume->add_subcommand("rollback", "make a volume as its newest snapshot is; refused while it has clients");
  named(rollback, "POOL/NAME@SNAPSHOT", *rollback_name);
  when_chosen(rollback, chosen, [rollback_name](const Context& context) { return volume_rollback(context, *rollback_name); });
}

void add_move_commands(CLI::App& app, Chosen& chosen) {
  auto moved = std::make_shared<std::string>();
  auto to = std::make_shared<std::string>();
  CLI::App* over = app.add_subcommand("switchover", "move a pool to the other node, planned, without loss");
  named(over, "POOL", *moved);
  over->add_option("--to", *to, "the node that shall own it")->check(CLI::IsMember({"a", "b"}));
  when_chosen(over, chosen, [moved, to](const Context& context) { return switchover(context, *moved, *to); });

  auto taken = std::make_shared<std::string>();
  CLI::App* take = app.add_subcommand("takeover", "take a pool from an owner that is gone (refused while it is healthy)");
  named(take, "POOL", *taken);
  when_chosen(take, chosen, [taken](const Context& context) { return takeover(context, *taken); });

  auto returned = std::make_shared<std::string>();
  CLI::App* back = app.add_subcommand("failback", "bring a pool home, or every pool that is away");
  back->add_option("POOL", *returned);
  when_chosen(back, chosen, [returned](const Context& context) { return failback(context, *returned); });
}

void add_other_commands(CLI::App& app, Chosen& chosen) {
  auto pool = std::make_shared<std::string>();
  CLI::App* status = app.add_subcommand("status", "what there is, how it does, and what to do");
  status->add_option("POOL", *pool);
  when_chosen(status, chosen, [pool](const Context& context) { return show_status(context, *pool); });

  CLI::App* drive = app.add_subcommand("drive", "the drives that the nodes give to the pair");
  drive->require_subcommand(1);
  when_chosen(drive->add_subcommand("list", "every registered drive"), chosen, [](const Context& context) { return drive_list(context); });
  struct Replace {
    std::string pool, old_drive, new_drive;
    bool force = false;
  };
  auto words = std::make_shared<Replace>();
  CLI::App* replace = drive->add_subcommand("replace", "zpair drive replace tank-a b:OLD b:/dev/disk/by-id/NEW");
  named(replace, "POOL", words->pool);
  named(replace, "OLD", words->old_drive);
  named(replace, "NEW", words->new_drive);
  replace->add_flag("--force", words->force, "take a drive that carries another pool");
  when_chosen(replace, chosen, [words](const Context& context) { return drive_replace(context, words->pool, words->old_drive, words->new_drive, words->force); });

  CLI::App* store = app.add_subcommand("store", "the quorum store (etcd)");
  store->require_subcommand(1);
  when_chosen(store->add_subcommand("status", "its members and the pools' records"), chosen, [](const Context& context) { return store_status(context); });
  auto member = std::make_shared<std::string>();
  CLI::App* readmit = store->add_subcommand("readmit", "let a member that lost its data vote again");
  named(readmit, "MEMBER", *member)->check(CLI::IsMember({"a", "b", "witness"}));
  when_chosen(readmit, chosen, [member](const Context& context) { return store_readmit(context, *member); });

  auto follow = std::make_shared<bool>(false);
  CLI::App* shows_events = app.add_subcommand("events", "what happened");
  shows_events->add_flag("-f,--follow", *follow, "and what happens from now on");
  when_chosen(shows_events, chosen, [follow](const Context& context) { return events(context, *follow); });
}

int run(int argument_count, char** arguments) {
  CLI::App app(help_head, "zpair");
  Globals globals;
  Chosen chosen;
  app.fallthrough();            // --json may stand at the end
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("zpair ") + ZPAIR_VERSION);
  auto* socket = app.add_option("--socket", globals.socket, "the zpaird to ask")->capture_default_str();
  app.add_option("--sandbox", globals.sandbox, "ask the nodes of the sandbox in this folder")->excludes(socket);
  app.add_flag("--json", globals.json, "print JSON (docs/api.md)");
  add_other_commands(app, chosen);
  add_pool_commands(app, chosen);
  add_volume_commands(app, chosen);
  add_move_commands(app, chosen);
  add_sandbox_commands(app, chosen);
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);   // --help, --version
    // A mistyped command is reported by CLI11 as a missing one.
    const std::vector<std::string> unknown = app.remaining(true);
    const bool mistyped = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && !unknown.empty();
    const std::string what = mistyped ? fmt::format("there is no command '{}'", unknown.front()) : std::string(error.what());
    print_error({ErrorCode::invalid, fmt::format("{} (see zpair --help)", what)});
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
