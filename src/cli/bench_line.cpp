// `zpair bench`: checks its line as every command does, then becomes zpair-bench (src/bench), which lies beside this program.
#include <memory>

#include "cli/command_line.h"
#include "cli/sandbox_start.h"

namespace zpair::cli {

namespace {

constexpr const char* bench_help =
    "how fast a pool is, beside the limit of its drives: sequential and random reads and writes by fio over NBD. Makes "
    "a "
    "volume in the pool, and destroys it at the end";
constexpr const char* bench_examples =
    "Cells are PATTERN-BLOCK-jJOBS: seqread, seqwrite, randread, randwrite or mixed (70 % reads), 4k to 1m, 1, 8 or "
    "16\n"
    "clients at once; randwrite-4k-j16, or randread-* for several.\n"
    "Examples:\n"
    "  zpair bench tank-a --quick\n"
    "  zpair bench tank-a --out before; …; zpair bench tank-a --out after; zpair bench compare before after";

struct BenchLine {
  std::string target, cells, out;
  std::vector<std::string> raw_dirs;
  std::uint64_t size_bytes = 0;
  int repeats = 0;
  double seconds = 0;
  bool quick = false, overwrite = false;
};

struct CompareLine {
  std::string before, after;
};

Result<void> run_bench(const Globals& globals, const BenchLine& line) {
  ZP_TRY(context, globals.context());
  if (context.nodes.places().empty()) ZP_CHECK(context.nodes.get("/v1/status"));  // for its error
  std::vector<std::string> words = {"run", line.target, "--tools", own_folder()};
  const auto add = [&](const char* option, const std::string& value) {
    words.push_back(option);
    words.push_back(value);
  };
  for (const Nodes::Place& place : context.nodes.places()) add("--node", place.name + "=" + place.socket);
  for (const std::string& dir : line.raw_dirs) add("--raw-dir", dir);
  // A sandbox's drives are files in its folder: the limit's lie on the same file system.
  if (line.raw_dirs.empty() && !globals.sandbox.empty()) add("--raw-dir", globals.sandbox);
  if (!line.cells.empty()) add("--cells", line.cells);
  if (!line.out.empty()) add("--out", line.out);
  if (line.size_bytes > 0) add("--size", std::to_string(line.size_bytes));
  if (line.repeats > 0) add("--repeats", std::to_string(line.repeats));
  if (line.seconds > 0) add("--seconds", fmt::format("{}", line.seconds));
  if (line.quick) words.push_back("--quick");
  if (line.overwrite) words.push_back("--overwrite");
  if (globals.json) words.push_back("--json");
  return become_python("zpair-bench", std::move(words));
}

}  // namespace

void add_bench_commands(CLI::App& app, Chosen& chosen) {
  auto line = std::make_shared<BenchLine>();
  CLI::App* bench = add_command(app, "bench", bench_help);
  bench->footer(bench_examples);
  add_optional_word(*bench, "POOL[/VOLUME]", line->target, "the pool; or a volume of it, which is overwritten");
  bench->add_flag("--quick", line->quick, "two minutes: the most telling cells (default: 20 minutes, 30 cells)");
  add_optional_word(*bench, "--cells", line->cells, "only these, comma-separated")->type_name("LIST");
  add_optional_word(*bench, "--out", line->out, "write report.json and report.html into this folder")->type_name("DIR");
  bench->add_option("--repeats", line->repeats, "rounds over all cells (default: 5, quick: 3)")
      ->type_name("N")
      ->check(CLI::Range(1, 100));
  bench->add_option("--seconds", line->seconds, "of each measurement (default: 3.5, quick: 2)")
      ->type_name("S")
      ->check(CLI::Range(0.5, 3600.0));
  add_size(*bench, "--size", line->size_bytes,
           "of the volume that is made (default: 1G; with --quick or --cells: 512M)", "");
  bench->add_flag("--overwrite", line->overwrite, "yes, what the named volume holds may go");
  bench
      ->add_option("--raw-dir", line->raw_dirs,
                   "where the two files of the limit lie, on drives like the pool's; twice: one for each leg (default: "
                   "/var/tmp, or the sandbox's folder)")
      ->type_name("DIR")
      ->take_all()
      ->expected(1, 2)
      ->allow_extra_args(false);

  auto two = std::make_shared<CompareLine>();
  CLI::App* compare = add_command(*bench, "compare", "whether a second run is faster or slower, cell by cell",
                                  "zpair bench compare before after");
  add_word(*compare, "BEFORE", two->before, "--out of the first run, or its report.json");
  add_word(*compare, "AFTER", two->after, "--out of the second");
  compare->callback([two, &chosen] {
    chosen = [two](const Globals& globals) {
      std::vector<std::string> words = {"compare", two->before, two->after};
      if (globals.json) words.push_back("--json");
      return become_python("zpair-bench", std::move(words));
    };
  });
  bench->callback([bench, compare, line, &chosen] {
    if (bench->got_subcommand(compare)) return;
    if (line->target.empty()) throw CLI::RequiredError("POOL");
    chosen = [line](const Globals& globals) { return run_bench(globals, *line); };
  });
}

}  // namespace zpair::cli
