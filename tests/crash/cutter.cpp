#include "cutter.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/assert.h"

namespace zpair::crash {

namespace {

constexpr unsigned life_seconds_most = 60;  // a hang is a failure
constexpr std::size_t said_most = 4000;

std::uint64_t hash_of(std::uint64_t seed, std::string_view text) {
  std::uint64_t hash = seed;
  for (char letter : text) hash = Random(hash ^ static_cast<unsigned char>(letter)).next();
  return hash;
}

std::string legs_named(std::uint8_t legs, unsigned count) {
  std::string names;
  for (unsigned leg = 0; leg < count; ++leg) {
    if ((legs >> leg & 1) != 0)
      names += fmt::format("{}{}{}", names.empty() ? "" : " ", leg % 2 == 0 ? 'a' : 'b', leg / 2);
  }
  return names;
}

// The paths of a cut and of its recoveries.
bool leads(const std::string& from, const std::string& to) {
  auto is_digit = [](char letter) { return letter >= '0' && letter <= '9'; };
  if (from.empty() || !to.starts_with(from)) return from.empty();
  return to.size() == from.size() || !is_digit(from.back()) || !is_digit(to[from.size()]);
}

std::string text_of(const Tape& tape, const Event& note) {
  return {reinterpret_cast<const char*>(tape.data_of(note).data()), note.size};
}

}  // namespace

Tally& Tally::operator+=(const Tally& other) {
  lives += other.lives;
  cuts += other.cuts;
  recoveries += other.recoveries;
  nested += other.nested;
  with_absent_leg += other.with_absent_leg;
  zdb_runs += other.zdb_runs;
  records_replayed += other.records_replayed;
  sectors_checked += other.sectors_checked;
  grows += other.grows;
  rolled_back += other.rolled_back;
  refusals += other.refusals;
  return *this;
}

Cutter::Cutter(CutOptions options) : options_(std::move(options)) {
  for (unsigned depth = 0; depth <= options_.depth_most; ++depth) tapes_.push_back(std::make_unique<Tape>());
  void* memory = ::mmap(nullptr, sizeof(Outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ZP_ASSERT(memory != MAP_FAILED, "there is memory for an outcome");
  outcome_ = new (memory) Outcome;
}

// ---- a life

bool Cutter::spawn(const LifeOptions& options) {
  *outcome_ = Outcome{};
  int pipe_fds[2];
  ZP_ASSERT(::pipe(pipe_fds) == 0, "there is a pipe for what a life says");
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(pipe_fds[1], 1);
    ::dup2(pipe_fds[1], 2);
    ::close(pipe_fds[0]);
    ::close(pipe_fds[1]);
    ::alarm(life_seconds_most);
#ifdef ZPAIR_MUTATIONS
    if (options_.mutation != nullptr) zp_active_mutation = options_.mutation->engine;
#endif
    live(options);
  }
  ::close(pipe_fds[1]);
  said_.clear();
  char bytes[4096];
  for (ssize_t count; (count = ::read(pipe_fds[0], bytes, sizeof bytes)) > 0;) {
    if (said_.size() < said_most) said_.append(bytes, static_cast<std::size_t>(count));
  }
  ::close(pipe_fds[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  tally_.sectors_checked += outcome_->sectors_checked;
  tally_.records_replayed += outcome_->records_replayed;
  tally_.grows += outcome_->grows;
  tally_.refusals += outcome_->refusals;
  if (outcome_->end == Outcome::End::well && WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  if (outcome_->end == Outcome::End::unfinished) {
    std::snprintf(outcome_->text, sizeof outcome_->text, "the process ended with %s %d",
                  WIFSIGNALED(status) ? "signal" : "code",
                  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  }
  return false;
}

bool Cutter::fail(const std::string& path, const std::string& what) {
  why_ = fmt::format("seed {:#x}, cut {}: {}", plan_.seed, path.empty() ? "(first life)" : path, what);
  if (!said_.empty()) why_ += fmt::format("\n  the process said:\n{}", said_);
  if (options_.keep.empty()) return false;
  const std::string folder = fmt::format("{}/{:#x}", options_.keep, plan_.seed);
  std::filesystem::create_directories(folder);
  for (std::size_t depth = 0; depth < tapes_.size(); ++depth) {
    if (auto saved = tapes_[depth]->save(fmt::format("{}/tape{}", folder, depth)); !saved)
      why_ += "\n  " + saved.error().message;
  }
  why_ += fmt::format("\n  again: zpair_crash --seed {:#x} --tapes {} --cut {}", plan_.seed, folder, path);
  if (options_.mutation != nullptr) why_ += fmt::format(" --mutation {}", options_.mutation->name);
  return false;
}

bool Cutter::run(std::uint64_t seed, Clock::time_point give_up) {
  give_up_ = give_up;
  plan_ = plan_of(seed, aim());
  images_.clear();
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) images_.push_back(std::make_unique<Image>(plan_.leg_bytes));
  for (auto& tape : tapes_) tape->erase();
  History history;
  for (const Plan::Volume& volume : plan_.volumes) history.add_volume(volume.size_bytes);
  ++tally_.lives;
  LifeOptions options{.plan = plan_,
                      .tape = *tapes_[0],
                      .images = images_,
                      .history = history,
                      .outcome = *outcome_,
                      .seed = seed,
                      .play = play()};
  const bool well = spawn(options);
  const std::string why_dead = outcome_->text;
  if (!well && outcome_->end == Outcome::End::wrong) return fail("", why_dead);
  Reading reading{*tapes_[0], 0, std::vector<WriteCache>(plan_.legs()), std::move(history), {}};
  if (!walk(reading, 0, "", seed)) return false;
  // It acknowledged nothing wrong, but it should not have died.
  return well || options_.mutation != nullptr || fail("", why_dead);
}

bool Cutter::replay(std::uint64_t seed, const std::string& folder) {
  give_up_ = Clock::time_point::max();
  replaying_ = true;
  plan_ = plan_of(seed, aim());
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) images_.push_back(std::make_unique<Image>(plan_.leg_bytes));
  for (std::size_t depth = 0; depth < tapes_.size(); ++depth) {
    if (auto loaded = tapes_[depth]->load(fmt::format("{}/tape{}", folder, depth)); !loaded)
      return fail("", loaded.error().message);
  }
  History history;
  for (const Plan::Volume& volume : plan_.volumes) history.add_volume(volume.size_bytes);
  Reading reading{*tapes_[0], 0, std::vector<WriteCache>(plan_.legs()), std::move(history), {}};
  return walk(reading, 0, "", seed);
}

// ---- reading a tape

void Cutter::advance(Reading& reading, std::size_t to) {
  using Kind = Event::Kind;
  for (; reading.at < to; ++reading.at) {
    const Event& event = reading.tape.events()[reading.at];
    switch (event.kind) {
      case Kind::write_submitted:
        reading.caches[event.leg].write_submitted(event.io, event.offset, reading.tape.data_of(event), event.flag);
        break;
      case Kind::flush_submitted: reading.caches[event.leg].flush_submitted(event.io); break;
      case Kind::completed:
        reading.caches[event.leg].completed(
            event.io, [&](const WriteCache::Write& write) { images_[event.leg]->put(write.offset, write.data); });
        break;
      case Kind::failed: reading.caches[event.leg].failed(event.io); break;
      case Kind::cache_lost: reading.caches[event.leg].lost(event.flag); break;
      case Kind::piece: images_[event.leg]->put(event.offset, reading.tape.data_of(event)); break;
      case Kind::ready: reading.ready = true; break;
      default:
        reading.history.note(event);
        reading.record.note(event);
        break;
    }
  }
}

std::vector<std::size_t> Cutter::cut_points(const Tape& tape, unsigned count, Random& random) const {
  using Kind = Event::Kind;
  auto events = tape.events();
  const bool first_life = &tape == tapes_[0].get();
  if (aim() && aim()->old_log_blocks) return points_at_old_log_blocks(events, first_life, count, random);
  // A pool is recorded before it serves: the first life's cuts begin there, a recovery's at its begin.
  auto first = std::ranges::find(events, first_life ? Kind::ready : events.front().kind, &Event::kind);
  std::vector<std::size_t> points;
  const auto begin = static_cast<std::size_t>(first - events.begin()) + 1;
  if (begin >= events.size()) return points;
  for (unsigned i = 0; i < count; ++i) {
    std::size_t point = begin + random.below(events.size() - begin);
    // Half of them where most is at stake: just after somebody was told something.
    constexpr std::array told = {Kind::answered,  Kind::answered,  Kind::completed,
                                 Kind::record_is, Kind::record_is, Kind::record_asked};
    auto next = std::ranges::find(events.subspan(point), told[random.below(told.size())], &Event::kind);
    if (random.one_in(2) && next != events.end()) point = static_cast<std::size_t>(next - events.begin()) + 1;
    points.push_back(point);
  }
  std::ranges::sort(points);
  return points;
}

// Of a life whose side stays away: where the quiet volume was answered meanwhile. Of its recovery: just after the grow.
std::vector<std::size_t> Cutter::points_at_old_log_blocks(std::span<const Event> events, bool first_life,
                                                          unsigned count, Random& random) const {
  std::size_t last_record = 0;
  for (std::size_t at = 0; at < events.size(); ++at) {
    if (events[at].kind == Event::Kind::record_is) last_record = at;
  }
  std::vector<std::size_t> good;
  for (std::size_t at = last_record; at < events.size() && first_life; ++at) {
    const bool of_quiet = events[at].leg + 1U == plan_.volumes.size();
    if (events[at].kind == Event::Kind::answered && of_quiet) good.push_back(at + 1);
  }
  if (!first_life) good.push_back(last_record + 1);
  std::vector<std::size_t> points;
  for (unsigned i = 0; i < count && !good.empty(); ++i) points.push_back(good[random.below(good.size())]);
  std::ranges::sort(points);
  return points;
}

// ---- cutting it

bool Cutter::wanted(const std::string& path) const {
  return options_.only.empty() || leads(path, options_.only) || leads(options_.only, path);
}

bool Cutter::walk(Reading& reading, unsigned depth, const std::string& path, std::uint64_t seed) {
  Random random(hash_of(seed, "cuts"));
  if (reading.tape.events().empty()) return true;
  std::vector<std::size_t> points = cut_points(reading.tape, depth == 0 ? options_.cuts : options_.nested_cuts, random);
  for (std::size_t i = 0; i < points.size() && !late(); ++i) {
    advance(reading, points[i]);
    const std::string own_path = fmt::format("{}{}{}", path, path.empty() ? "" : ".", i);
    if (wanted(own_path) && !cut(reading, depth, own_path, hash_of(seed, own_path))) return false;
  }
  return true;
}

bool Cutter::cut(Reading& reading, unsigned depth, const std::string& path, std::uint64_t seed) {
  Random random(seed);
  ++tally_.cuts;
  if (depth > 0) ++tally_.nested;
  for (auto& image : images_) image->begin_trial();
  cut_story_.clear();
  for (unsigned leg = 0; leg < plan_.legs(); ++leg) {
    const WriteCache& cache = reading.caches[leg];
    const Leave leave = Leave::any(random);
    const std::vector<Fate> fates = cache.fates(leave);
    cache.leave(leave, fates, *images_[leg]);
    cut_story_.push_back(fmt::format("{}: of {} writes that were not durable {}",
                                     legs_named(static_cast<std::uint8_t>(1U << leg), plan_.legs()),
                                     cache.writes().size(), name_of(leave.style)));
    for (std::size_t i = 0; i < fates.size(); ++i) {
      const WriteCache::Write& write = cache.writes()[i];
      cut_story_.push_back(fmt::format("    write {} of {} bytes at {}{}: {}", write.io, write.data.size(),
                                       write.offset, write.completion == 0 ? " (in flight)" : "", name_of(fates[i])));
    }
  }
  // As the record stood; with a swap open either way.
  std::uint8_t named = reading.record.in_sync;
  if (reading.record.asked && random.one_in(2)) named = *reading.record.asked;
  if (play() == Play::record_ignored) named = plan_.all_mask();
  if (named != plan_.all_mask()) ++tally_.with_absent_leg;
  bool good = true;
  std::vector<std::uint8_t> returns = {plan_.side_mask(0), plan_.side_mask(1), plan_.all_mask()};
  if (plan_.mirrors > 1) {  // one leg of each mirror, here and there
    std::uint8_t mixed = 0;
    for (unsigned mirror = 0; mirror < plan_.mirrors; ++mirror)
      mixed |= static_cast<std::uint8_t>(1U << (2 * mirror + random.below(2)));
    returns.push_back(mixed);
  }
  std::vector<std::uint8_t> tried;
  for (std::size_t i = 0; i < returns.size() && good; ++i) {
    const auto legs = static_cast<std::uint8_t>(returns[i] & named);
    bool serves = true;
    for (unsigned mirror = 0; mirror < plan_.mirrors; ++mirror) serves = serves && (legs >> (2 * mirror) & 3) != 0;
    if (!serves || std::ranges::find(tried, legs) != tried.end()) continue;
    tried.push_back(legs);
    const std::string own_path = path + "abcm"[i];
    if (wanted(own_path)) good = recover(reading, legs, depth, own_path, hash_of(seed, own_path));
  }
  const std::string rolled_path = path + "r";
  if (good && depth == 0 && random.one_in(3) && wanted(rolled_path)) {
    good = roll_back(reading, tried[random.below(tried.size())], rolled_path, hash_of(seed, rolled_path));
  }
  for (auto& image : images_) image->end_trial();
  return good;
}

bool Cutter::recover(Reading& reading, std::uint8_t legs, unsigned depth, const std::string& path, std::uint64_t seed) {
  Random random(seed);
  const bool aimed = aim() && aim()->old_log_blocks && legs != plan_.all_mask();
  const bool alone = legs != plan_.all_mask() && reading.record.in_sync == legs;  // others wait to be brought back
  unsigned cut_again_one_in = alone ? 2 : 4 + 2 * depth;
  if (aimed) cut_again_one_in = 1;
  const bool cut_again = depth < options_.depth_most && random.one_in(cut_again_one_in);
  const bool goes_on = cut_again && !aimed && random.one_in(2);
  const bool look = options_.zdb_one_in != 0 && !goes_on && random.one_in(options_.zdb_one_in);
  Plan plan = plan_;
  plan.operations = 40 + static_cast<unsigned>(random.below(100));
  if (!cut_again) plan.manners = {.immediate_percent = 100};  // nobody looks at its tape
  const std::size_t tape_index = std::min<std::size_t>(depth + 1, tapes_.size() - 1);
  Tape spare_tape;
  Tape& tape = depth + 1 < tapes_.size() ? *tapes_[tape_index] : spare_tape;
  // Of a failure that was kept, the recoveries that lead to it are on tape.
  const bool taped = replaying_ && path != options_.only && leads(path, options_.only);
  if (!taped) tape.erase();
  tape.identity() = tapes_[0]->identity();
  LifeOptions options{.plan = plan,
                      .tape = tape,
                      .images = images_,
                      .history = reading.history,
                      .outcome = *outcome_,
                      .seed = seed,
                      .play = play()};
  options.import = LifeOptions::Import{legs, reading.record, random.one_in(4) ? 20U : 0U};
  options.goes_on = goes_on;
  if (cut_again)
    options.returns =
        aimed || random.one_in(2) ? LifeOptions::Returns::before_volumes_open : LifeOptions::Returns::under_load;
  if (look) {
    std::string folder = std::filesystem::temp_directory_path() / "zpair-crash-XXXXXX";
    ZP_ASSERT(::mkdtemp(folder.data()) != nullptr, "there is a folder for zdb");
    options.export_to = folder;
  }
  if (!taped && !judge(options, reading, path)) return false;
  if (look && !zdb(options.export_to, path)) return false;
  if (!cut_again || (replaying_ && !taped)) return true;
  // The tape of the recovery, from the drives as the cut left them.
  for (auto& image : images_) image->begin_trial();
  Record record = reading.record;
  record.in_sync = legs;
  record.asked.reset();
  Reading again{tape, 0, std::vector<WriteCache>(plan_.legs()), reading.history, record};
  const bool good = walk(again, depth + 1, path, seed);
  for (auto& image : images_) image->end_trial();
  return good;
}

bool Cutter::judge(const LifeOptions& options, const Reading& reading, const std::string& path) {
  ++tally_.recoveries;
  if (spawn(options)) return true;
  // A plant that something else stopped, under load, has lost nothing: no finding.
  if (options_.mutation != nullptr && outcome_->end == Outcome::End::unfinished && outcome_->served) return true;
  const std::string text =
      fmt::format("imported with {}: {}", legs_named(options.import->legs, plan_.legs()), story(reading, *outcome_));
  return fail(path, text + last_words(options.tape));
}

bool Cutter::roll_back(Reading& reading, std::uint8_t legs, const std::string& path, std::uint64_t seed) {
  using Kind = Event::Kind;
  Random random(seed);
  auto events = reading.tape.events();
  std::size_t to = reading.at + random.below(std::min<std::size_t>(events.size() - reading.at, 4000));
  // A floor names one record of a commit and not its last. So it proves a write when another of its volume was issued after the
  // answer, and was answered before the floor was noted.
  Record record = reading.record;
  History history = reading.history;
  struct Answered {
    std::size_t at;
    Event event;
  };
  std::vector<Answered> unproven, proven;
  std::map<std::pair<std::uint8_t, std::uint32_t>, std::size_t> issued_at;
  for (std::size_t i = reading.at; i < to; ++i) {
    const Event& event = events[i];
    if (event.kind == Kind::issued) {
      issued_at[{event.leg, event.io}] = i;
      history.note(event);
    } else if (event.kind == Kind::answered) {
      const auto issued = issued_at.find({event.leg, event.io});
      std::erase_if(unproven, [&](const Answered& each) {
        if (each.event.leg != event.leg || issued == issued_at.end() || each.at > issued->second) return false;
        proven.push_back(each);
        return true;
      });
      unproven.push_back({i, event});
    } else if (event.kind == Kind::log_floor || event.kind == Kind::floor) {
      record.note(event);
      std::erase_if(proven, [&](const Answered& each) {
        if (event.kind != Kind::log_floor || each.event.leg != event.leg) return false;
        history.note(each.event);
        return true;
      });
    } else if (event.kind == Kind::record_is || event.kind == Kind::record_asked) {
      legs &= event.legs;  // what the record dropped meanwhile is not asked for
    }
  }
  for (unsigned mirror = 0; mirror < plan_.mirrors; ++mirror) {
    if ((legs >> (2 * mirror) & 3) == 0) return true;
  }
  ++tally_.rolled_back;
  Plan plan = plan_;
  plan.manners = {.immediate_percent = 100};
  Tape tape;
  tape.identity() = tapes_[0]->identity();
  LifeOptions options{.plan = plan,
                      .tape = tape,
                      .images = images_,
                      .history = std::move(history),
                      .outcome = *outcome_,
                      .seed = seed,
                      .goes_on = false,
                      .play = play()};
  options.import = LifeOptions::Import{legs, record, 0, true};
  return judge(options, reading, path);
}

bool Cutter::zdb(const std::string& folder, const std::string& path) {
  ++tally_.zdb_runs;
  const std::string command = fmt::format("zdb -e -p {0} -bcc tank > {0}/out 2>&1", folder);
  const int status = std::system(command.c_str());
  std::ifstream file(folder + "/out");
  std::string said(std::istreambuf_iterator<char>(file), {});
  const bool good = status == 0 && said.find("No leaks") != std::string::npos;
  std::filesystem::remove_all(folder);
  if (good) return true;
  said_ = said;
  return fail(path, "zdb finds faults");
}

// What the owner and the engine said of the recovery that failed.
std::string Cutter::last_words(const Tape& tape) const {
  constexpr std::size_t most = 20;
  std::vector<std::string> lines;
  for (const Event& event : tape.events()) {
    if (event.kind == Event::Kind::note) {
      lines.push_back(text_of(tape, event));
    } else if (event.kind >= Event::Kind::ready && event.kind <= Event::Kind::record_asked) {
      lines.push_back(
          fmt::format("{} {} (since {})", name_of(event.kind), legs_named(event.legs, plan_.legs()), event.offset));
    }
  }
  std::string text = "\n  the recovery:";
  for (std::size_t i = lines.size() > most ? lines.size() - most : 0; i < lines.size(); ++i)
    text += "\n    " + lines[i];
  return text;
}

std::string Cutter::story(const Reading& reading, const Outcome& outcome) const {
  std::string text = outcome.text;
  for (unsigned i = 0; i < std::min(outcome.finding_count, Outcome::findings_most); ++i)
    text += fmt::format("\n  {}", to_string(outcome.findings[i]));
  if (outcome.finding_count > Outcome::findings_most) text += fmt::format("\n  … {} in all", outcome.finding_count);
  for (const std::string& line : cut_story_) text += "\n  " + line;
  if (outcome.finding_count == 0) return text;
  // The lost write's life.
  const Finding& finding = outcome.findings[0];
  bool inside = false;
  text += fmt::format("\n  the life of write {} of v{}:", finding.answered, finding.volume);
  for (std::size_t i = 0; i < reading.at; ++i) {
    const Event& event = reading.tape.events()[i];
    const bool own = event.leg == finding.volume && event.io == finding.answered;
    if (event.kind == Event::Kind::issued && own) inside = true;
    const bool of_interest = event.kind <= Event::Kind::piece || event.kind >= Event::Kind::ready || own;
    if (inside && of_interest && event.kind != Event::Kind::floor && event.kind != Event::Kind::log_floor) {
      text += fmt::format(
          "\n    {:7} {} {} {}{}{}", i, name_of(event.kind),
          event.kind <= Event::Kind::piece ? legs_named(static_cast<std::uint8_t>(1U << event.leg), plan_.legs()) : "",
          event.kind == Event::Kind::note ? text_of(reading.tape, event) : fmt::format("{}", event.io),
          event.size != 0 && event.kind <= Event::Kind::piece
              ? fmt::format(", {} bytes at {}", event.size, event.offset)
              : "",
          event.flag ? " (flag)" : "");
    }
    if (event.kind == Event::Kind::answered && own) break;
  }
  return text;
}

}  // namespace zpair::crash
