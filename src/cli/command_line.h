#pragma once
// The command line of `zpair`: what its .cpp files share. Parsing chooses one thing to do; main does it.
#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/commands.h"

namespace zpair::cli {

struct Globals {
  std::string socket{default_socket};
  std::string sandbox;
  bool json = false;

  Format format() const { return json ? Format::json : Format::text; }
  Result<Context> context() const;
};

using Chosen = std::function<Result<void>(const Globals&)>;

// A command below `parent`; `example` is printed at the end of its help.
CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& help,
                      const std::string& example = "");
// A word that must be given, and may not be empty: `zpair pool destroy "$POOL"` with no POOL does nothing.
CLI::Option* add_word(CLI::App& command, const std::string& name, std::string& word, const std::string& help);
CLI::Option* add_optional_word(CLI::App& command, const std::string& name, std::string& word, const std::string& help);

// Checks a word by the function that will read it: what is wrong on the line is a usage error, and nobody is asked.
template <class Parse>
CLI::Validator reads_by(Parse parse) {
  return CLI::Validator(
      [parse](std::string& text) {
        auto read = parse(text);
        return read ? std::string() : read.error().message;
      },
      "");
}

// An option that takes 256M, 10G, …
CLI::Option* add_size(CLI::App& command, const std::string& name, std::uint64_t& size_bytes, const std::string& help,
                      const std::string& otherwise);

// Replaces this process by a program of ours in Python that lies beside it; returns only when that fails.
Result<void> become_python(const std::string& name, std::vector<std::string> words);

void add_bench_commands(CLI::App& app, Chosen& chosen);
void add_drill_commands(CLI::App& app, Chosen& chosen);
void add_tune_commands(CLI::App& app, Chosen& chosen);
void add_sandbox_commands(CLI::App& app, Chosen& chosen);

}  // namespace zpair::cli
