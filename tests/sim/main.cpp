// zpair_sim: random schedules of the pair; see README.md.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <thread>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "world_internal.h"

namespace {

using namespace zpair;
using namespace zpair::sim;

constexpr std::uint64_t schedules_for_coverage = 100'000;

struct Options {
  double seconds = 30;
  std::uint64_t schedules = 0;
  std::uint64_t seed = 0;
  bool one_seed = false;
  bool story = false;
  bool mutations = false;
  std::uint64_t at_least = 0;
  std::string mutation;
  unsigned threads = 0;
  std::uint64_t first_seed = 1;
};

struct Mutant {
  std::string name;
  brain::Mutation brain = brain::Mutation::none;
  ModelMutation model = ModelMutation::none;
  std::optional<Scene> aim;
};

// The scene in which the rule that a mutation breaks matters: half of its schedules are nothing else.
constexpr std::pair<std::string_view, Scene> aims[] = {
    {"no-local-drain", Scene::slow_in_flight},
    {"handover-before-kill", Scene::handover_stalls},
    {"seed-from-newest-since", Scene::different_txgs},
    {"ack-set-after-swap", Scene::drop_in_grow},
    {"unknown-taken-as-failed", Scene::drop_in_grow},
    {"promise-counted-from-answer", Scene::late_promise},
    {"open-swap-ignored-for-reads", Scene::grow_unheard},
    {"promise-during-own-takeover", Scene::promise_at_start},
    {"promise-to-lower-epoch", Scene::owner_of_yesterday},
    {"start-forgets-promise", Scene::forgotten_promise},
    {"fence_not_stored", Scene::restarted_target},
    {"fence_ignores_epoch", Scene::restarted_target},
    {"clock_rate_off", Scene::promise_runs_out},
};

std::vector<Mutant> all_mutants() {
  std::vector<Mutant> mutants;
  for (int i = 1; i < static_cast<int>(brain::Mutation::count_of_mutations); ++i) {
    auto mutation = static_cast<brain::Mutation>(i);
    mutants.push_back({std::string(name_of(mutation)), mutation, ModelMutation::none, {}});
  }
  for (int i = 1; i < static_cast<int>(ModelMutation::count_of_mutations); ++i) {
    auto mutation = static_cast<ModelMutation>(i);
    mutants.push_back({std::string(name_of(mutation)), brain::Mutation::none, mutation, {}});
  }
  for (Mutant& mutant : mutants) {
    const auto* aim = std::ranges::find(aims, mutant.name, &std::pair<std::string_view, Scene>::first);
    if (aim != std::end(aims)) mutant.aim = aim->second;
  }
  return mutants;
}

Plan plan_for(std::uint64_t seed, const Mutant& mutant) {
  return mutant.aim && seed % 2 == 0 ? plan_of(seed, *mutant.aim) : plan_of(seed);
}

std::string run_once(const Plan& plan, const Mutant& mutant, Stats* stats, std::vector<std::string>* story) {
  // A mutation must be found by what it breaks, not by a pool that stands still.
  bool unbroken = mutant.brain == brain::Mutation::none && mutant.model == ModelMutation::none;
  World world(plan, mutant.brain, mutant.model, story != nullptr,
              unbroken ? World::Liveness::checked : World::Liveness::not_checked);
  world.run();
  if (stats != nullptr) stats->add(world.stats());
  if (story != nullptr) *story = world.story();
  return world.broken();
}

struct Search {
  Stats stats;
  std::uint64_t failing_seed = 0;
  std::string broken;
  double took_seconds = 0;
};

Search search(const Mutant& mutant, double seconds, std::uint64_t most_schedules, std::uint64_t first_seed,
              unsigned threads) {
  Search result;
  std::mutex mutex;
  std::atomic<std::uint64_t> next_seed{first_seed};
  std::atomic<bool> stop{false};
  auto begin = std::chrono::steady_clock::now();
  auto spent = [begin] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  auto work = [&] {
    Stats own;
    while (!stop && spent() < seconds) {
      std::uint64_t seed = next_seed++;
      if (most_schedules != 0 && seed >= first_seed + most_schedules) break;
      std::string broken = run_once(plan_for(seed, mutant), mutant, &own, nullptr);
      if (broken.empty()) continue;
      std::lock_guard lock(mutex);
      if (result.broken.empty() || seed < result.failing_seed) {
        result.broken = broken;
        result.failing_seed = seed;
      }
      stop = true;
    }
    std::lock_guard lock(mutex);
    result.stats.add(own);
  };
  std::vector<std::thread> pool;
  for (unsigned i = 0; i < threads; ++i) pool.emplace_back(work);
  for (auto& thread : pool) thread.join();
  result.took_seconds = spent();
  return result;
}

// Drops faults, one at a time and for as long as the plan still fails.
Plan shrink(Plan plan, const Mutant& mutant) {
  for (bool smaller = true; smaller;) {
    smaller = false;
    for (std::size_t i = 0; i < plan.faults.size(); ++i) {
      Plan without = plan;
      without.faults.erase(without.faults.begin() + static_cast<std::ptrdiff_t>(i));
      if (run_once(without, mutant, nullptr, nullptr).empty()) continue;
      plan = without;
      smaller = true;
      break;
    }
  }
  return plan;
}

void print_story(std::uint64_t seed, const Mutant& mutant, std::size_t last_lines) {
  Plan plan = shrink(plan_for(seed, mutant), mutant);
  std::vector<std::string> story;
  std::string broken = run_once(plan, mutant, nullptr, &story);
  fmt::print("seed {:#x}: {}\n  shrunk to {} faults, {} mirrors, {} blocks each:\n", seed, broken, plan.faults.size(),
             plan.mirror_count, plan.block_count);
  for (const Fault& fault : plan.faults)
    fmt::print("    {:9.3f} ms  {}\n", static_cast<double>(fault.at_ns) / 1e6, describe(fault));
  std::size_t from = story.size() > last_lines ? story.size() - last_lines : 0;
  fmt::print("  the story (last {} of {} lines):\n", story.size() - from, story.size());
  for (std::size_t i = from; i < story.size(); ++i) fmt::print("    {}\n", story[i]);
  fmt::print("  again: zpair_sim --seed {:#x}{} --story\n", seed,
             mutant.name.empty() ? "" : " --mutation " + mutant.name);
}

// The bare names of a variant's alternatives, in their order: the full list, made at compile time.
template <class Variant, std::size_t... Index>
std::vector<std::string> names_of(std::index_sequence<Index...>) {
  return {std::string(type_name<std::variant_alternative_t<Index, Variant>>())...};
}
template <class Variant>
std::vector<std::string> names_of() {
  return names_of<Variant>(std::make_index_sequence<std::variant_size_v<Variant>>{});
}

template <class Counts>
void print_counts(const char* what, const std::vector<std::string>& names, const Counts& counts,
                  std::vector<std::string>& never) {
  fmt::print("{}:", what);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    fmt::print(" {}={}", names[i], counts[i]);
    if (counts[i] == 0) never.push_back(fmt::format("{} {}", what, names[i]));
  }
  fmt::print("\n");
}

// How often each event, order and fault fired; those that never did.
std::vector<std::string> print_coverage(const Stats& stats) {
  std::vector<std::string> never;
  print_counts("agent event", names_of<brain::agent::Event>(), stats.agent_events, never);
  print_counts("agent order", names_of<brain::agent::Action>(), stats.agent_actions, never);
  print_counts("owner event", names_of<brain::owner::Event>(), stats.owner_events, never);
  print_counts("owner order", names_of<brain::owner::Action>(), stats.owner_actions, never);
  std::vector<std::string> kinds;
  for (std::size_t i = 0; i < stats.faults.size(); ++i) kinds.emplace_back(name_of(static_cast<FaultKind>(i)));
  print_counts("fault", kinds, stats.faults, never);
  return never;
}

int run_plain(const Options& options, const Mutant& mutant) {
  Search found = search(mutant, options.seconds, options.schedules, options.first_seed, options.threads);
  const Stats& stats = found.stats;
  std::vector<std::string> never = print_coverage(stats);
  fmt::print(
      "{} schedules, {} steps, {} acknowledged writes, {} reads, {} imports, {} takeovers, {} shrinks, {} grows, {} "
      "write-backs in {:.1f} s\n",
      stats.schedules, stats.steps, stats.acks, stats.reads, stats.imports, stats.takeovers, stats.shrinks, stats.grows,
      stats.write_backs, found.took_seconds);
  if (found.broken.empty()) {
    for (const std::string& each : never) fmt::print("never happened: {}\n", each);
    fmt::print("no invariant was broken\n");
    if (stats.schedules < options.at_least) {
      fmt::print("only {} of {} schedules in the time given\n", stats.schedules, options.at_least);
      return 1;
    }
    // A short search need not meet everything.
    return never.empty() || stats.schedules < schedules_for_coverage ? 0 : 1;
  }
  print_story(found.failing_seed, mutant, 400);
  return 1;
}

int run_mutations(const Options& options) {
  const std::vector<Mutant> mutants = all_mutants();
  std::size_t found_count = 0;
  double spent = 0;
  for (const Mutant& mutant : mutants) {
    Search found = search(mutant, options.seconds - spent, options.schedules, options.first_seed, options.threads);
    spent += found.took_seconds;
    found_count += found.broken.empty() ? 0 : 1;
    fmt::print("{:36} {} after {} schedules ({:.1f} s){}{}\n", mutant.name,
               found.broken.empty() ? "NOT FOUND" : "found", found.stats.schedules, found.took_seconds,
               found.broken.empty() ? "" : ": ", found.broken);
  }
  fmt::print("{} of {} mutations found in {:.1f} s\n", found_count, mutants.size(), spent);
  return found_count == mutants.size() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"The pair under random schedules: the shipped brains, everything else a model."};
  app.add_option("--seconds", options.seconds, "how long to search (with --mutations: all of them together)");
  app.add_option("--schedules", options.schedules,
                 "at most so many schedules (0: no bound; with --mutations: of each)");
  app.add_option("--first-seed", options.first_seed, "the first seed of the search");
  auto* seed = app.add_option("--seed", options.seed, "this schedule only");
  app.add_option("--mutation", options.mutation, "with this rule broken");
  app.add_flag("--mutations", options.mutations, "each mutation in turn: all must be found");
  app.add_option("--at-least", options.at_least, "fail when the time does not give so many schedules");
  app.add_flag("--story", options.story, "with --seed: shrink it and tell the story");
  app.add_flag("--trace", World::trace, "with --story: every command at every drive too");
  app.add_option("--threads", options.threads, "0: one a core");
  CLI11_PARSE(app, argc, argv);
  options.one_seed = seed->count() > 0;
  if (options.threads == 0) options.threads = std::max(1u, std::thread::hardware_concurrency());

  Mutant mutant;
  if (!options.mutation.empty()) {
    auto mutants = all_mutants();
    auto found = std::ranges::find(mutants, options.mutation, &Mutant::name);
    if (found == mutants.end()) {
      fmt::print(stderr, "zpair_sim: no mutation is called '{}'\n", options.mutation);
      return 2;
    }
    mutant = *found;
  }
  if (options.mutations) return run_mutations(options);
  if (!options.one_seed) return run_plain(options, mutant);
  if (options.story) {
    print_story(options.seed, mutant, 20000);
    return 0;
  }
  std::string broken = run_once(plan_for(options.seed, mutant), mutant, nullptr, nullptr);
  fmt::print("seed {:#x}: {}\n", options.seed, broken.empty() ? "no invariant was broken" : broken);
  return broken.empty() ? 0 : 1;
}
