#pragma once
// The command line of `zpair`: what its .cpp files share. Parsing chooses one thing to do; main does it.
#include <functional>
#include <string>

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

// An option that takes 256M, 10G, …
CLI::Option* add_size(CLI::App& command, const std::string& name, std::uint64_t& size_bytes, const std::string& help, const std::string& otherwise);

void add_sandbox_commands(CLI::App& app, Chosen& chosen);

}  // namespace zpair::cli
