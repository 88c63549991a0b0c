#include "cli/sandbox_start.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "api/http_client.h"
#include "base/clock.h"
#include "cli/sizes.h"

extern char** environ;

namespace zpair::cli {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t answer_timeout_ms = 30000;
constexpr std::int64_t gone_timeout_ms = 10000;
constexpr int missing_polls_of_the_dead = 25;  // half a second

struct Program {
  std::vector<std::string> arguments;  // the first is the file
  std::string node;
  std::string log_file;
  std::map<std::string, std::string> environment = {};  // besides this process's own
};

std::vector<std::string> environment_of(const SandboxLayout& layout, const Program& program) {
  std::map<std::string, std::string> added = program.environment;
  added["ZPAIR_SANDBOX"] = layout.dir;
  added["ZPAIR_NODE"] = program.node;
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!added.contains(text.substr(0, text.find('=')))) all.push_back(text);
  }
  for (const auto& [name, value] : added) all.push_back(name + "=" + value);
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (auto& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

// In the second child; only calls that are safe after a fork.
[[noreturn]] void become(char* const* arguments, char* const* environment, int log, int null, int report) {
  ::dup2(null, STDIN_FILENO);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::dup2(report, 3);
  ::close_range(4, ~0u, 0);
  ::fcntl(3, F_SETFD, FD_CLOEXEC);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  ::execve(arguments[0], arguments, environment);
  const int problem = errno;
  [[maybe_unused]] const auto written = ::write(3, &problem, sizeof problem);
  ::_exit(127);
}

Result<void> start_detached(const SandboxLayout& layout, Program program) {
  auto environment = environment_of(layout, program);
  auto environment_pointers = pointers(environment);
  auto argument_pointers = pointers(program.arguments);
  UniqueFd log(::open(program.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log) return fail_errno(errno, "cannot write the log {}", program.log_file);
  UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "cannot make a pipe");
  UniqueFd reader(ends[0]);
  UniqueFd report(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno(errno, "cannot start {}", program.arguments[0]);
  if (child == 0) {
    ::setsid();
    const pid_t grandchild = ::fork();  // orphaned at once: nobody here has to reap it
    if (grandchild == 0)
      become(argument_pointers.data(), environment_pointers.data(), log.get(), null.get(), report.get());
    ::_exit(grandchild < 0 ? 1 : 0);
  }
  report.reset();
  int status = 0;
  ::waitpid(child, &status, 0);
  int problem = 0;
  if (::read(reader.get(), &problem, sizeof problem) == static_cast<ssize_t>(sizeof problem)) {
    return fail_errno(problem, "cannot start {}", program.arguments[0]);
  }
  if (status != 0) return fail(ErrorCode::internal, "cannot start {}: no process left", program.arguments[0]);
  return {};
}

Result<std::string> find_program(const std::string& name) {
  const char* path = ::getenv("PATH");
  std::string list = path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path;
  for (std::size_t begin = 0; begin <= list.size();) {
    const auto end = std::min(list.find(':', begin), list.size());
    const std::string file = list.substr(begin, end - begin) + "/" + name;
    if (::access(file.c_str(), X_OK) == 0) return file;
    begin = end + 1;
  }
  return fail(ErrorCode::not_found, "the program {} is not installed: run ./dev setup, or apt-get install etcd-server",
              name);
}

bool listens(const std::string& address, std::uint16_t port) {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  ::inet_pton(AF_INET, address.c_str(), &at.sin_addr);
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0;
}

bool runs(const SandboxLayout& layout, std::string_view node, std::string_view name) {
  const auto processes = find_processes(layout.dir);
  return std::any_of(processes.begin(), processes.end(),
                     [&](const auto& process) { return process.node == node && process.name == name; });
}

std::string last_line(const std::string& file) {
  std::ifstream in(file);
  std::string last = "nothing";
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) last = line;
  }
  return last.substr(0, 300);
}

// Ends early, with the log's last word, when the process died meanwhile.
Result<void> wait_answer(const SandboxLayout& layout, std::string_view node, std::string_view name,
                         const std::string& log, const std::function<bool()>& answers) {
  // A process in the middle of an exec has no environment for a moment: gone is what is gone for a while.
  int times_missing = 0;
  bool died = false;
  const bool answered = wait_until(answer_timeout_ms, [&] {
    if (answers()) return true;
    const bool there = runs(layout, node, name) || (name == "etcd" && runs(layout, node, "etcd-start"));
    times_missing = there ? 0 : times_missing + 1;
    died = times_missing >= missing_polls_of_the_dead;
    return died;
  });
  if (died)
    return fail(ErrorCode::io, "{} of {} ended at its start, its log {} says: {}", name, node, log, last_line(log));
  if (!answered) return fail(ErrorCode::timed_out, "{} of {} runs but does not answer: its log is {}", name, node, log);
  return {};
}

// Handles of those that got the signal.
Result<std::vector<UniqueFd>> signal_all(const SandboxLayout& layout,
                                         const std::function<bool(const SandboxProcess&)>& matches, int signal_number) {
  std::vector<UniqueFd> handles;
  auto processes = find_processes(layout.dir);
  // zpaird first: it must not see its pool processes die before it.
  std::partition(processes.begin(), processes.end(), [](const auto& process) { return process.name == "zpaird"; });
  for (const auto& process : processes) {
    if (!matches(process)) continue;
    UniqueFd handle = open_process(process, layout.dir);
    if (!handle) continue;
    ZP_CHECK(send_signal(handle, signal_number));
    handles.push_back(std::move(handle));
  }
  return handles;
}

// To their last threads: a process that dies under load may hold its files long after its memory is gone.
bool all_gone(const std::vector<UniqueFd>& handles, Deadline deadline) {
  return std::all_of(handles.begin(), handles.end(), [&](const UniqueFd& handle) {
    const std::int64_t left_ms = (deadline.at_ns - boot_time_ns()) / ns_per_ms;
    return wait_gone(handle, static_cast<int>(std::max<std::int64_t>(left_ms, 0)));
  });
}

bool any_left(const SandboxLayout& layout, const std::function<bool(const SandboxProcess&)>& matches) {
  const auto processes = find_processes(layout.dir);
  return std::any_of(processes.begin(), processes.end(), matches);
}

auto nothing_runs(const std::string& target) {
  return fail(ErrorCode::not_found, "no process of {} runs: zpair sandbox status DIR shows those that do", target);
}

std::vector<std::string> parts_of(const std::string& target) {
  if (target == "both") return {"a", "b"};
  if (target == "all") return {"switch", "a", "b", "witness"};
  return {target};
}

}  // namespace

std::string own_folder() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path().string();
}

std::string own_name() { return find_program("zpair") ? "zpair" : quoted(own_folder() + "/zpair"); }

bool wait_until(std::int64_t timeout_ms, const std::function<bool()>& fact) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (!fact()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

Result<std::function<bool(const SandboxProcess&)>> matcher_of(const std::string& target) {
  using Matcher = std::function<bool(const SandboxProcess&)>;
  const auto colon = target.find(':');
  const std::string kind = target.substr(0, colon);
  const std::string rest = colon == std::string::npos ? "" : target.substr(colon + 1);
  const auto is_member = [](const std::string& name) { return name == "a" || name == "b" || name == "witness"; };
  if (target == "all") return Matcher([](const auto&) { return true; });
  if (target == "both") return Matcher([](const auto& process) { return process.node == "a" || process.node == "b"; });
  if (is_member(target) || target == "switch")
    return Matcher([target](const auto& process) { return process.node == target; });
  if (kind == "zpaird" && (rest == "a" || rest == "b"))
    return Matcher([rest](const auto& process) { return process.node == rest && process.name == "zpaird"; });
  if (kind == "etcd" && is_member(rest))
    return Matcher([rest](const auto& process) { return process.node == rest && process.name.starts_with("etcd"); });
  if (kind == "pool" && !rest.empty())
    return Matcher([rest](const auto& process) { return process.name == "zpair-pool " + rest; });
  return fail(ErrorCode::invalid,
              "'{}' is no part of a sandbox: there are a, b, both, witness, zpaird:a, etcd:a, pool:NAME", target);
}

Result<void> start_switch(const SandboxLayout& layout) {
  const std::string log = layout.log_dir() + "/switch.log";
  ZP_CHECK(
      start_detached(layout, {{own_folder() + "/zpair", "sandbox-switch", layout.switch_plan_file()}, "switch", log}));
  return wait_answer(layout, "switch", "switch", log,
                     [&] { return ask_switch(layout.switch_socket(), R"({"status": true})").has_value(); });
}

// Through the start wrapper (rule 9): a member that lost its memory does not start.
Result<void> start_etcd(const SandboxLayout& layout, std::string_view member) {
  ZP_TRY(program, find_program("etcd"));
  const std::string own_address = layout.address(etcd_host(member));
  const std::string client_url = fmt::format("http://{}:{}", own_address, layout.etcd_client_port());
  const std::string mark = layout.etcd_mark_file(member);
  const std::string log = fmt::format("{}/etcd-{}.log", layout.log_dir(), member);
  std::vector<std::string> arguments = {own_folder() + "/etcd-start",
                                        "--name",
                                        std::string(member),
                                        "--data-dir",
                                        layout.etcd_dir(member) + "/data",
                                        "--mark-file",
                                        mark,
                                        "--pins-file",
                                        layout.etcd_pins_file(member),
                                        "--etcd",
                                        program};
  std::string cluster;
  for (std::string_view other : member_names) {
    cluster += fmt::format("{}{}={}", cluster.empty() ? "" : ",", other, etcd_peer_url(layout, other));
    if (other != member)
      arguments.insert(arguments.end(), {"--peer-client", etcd_client_url_for_others(layout, other)});
  }
  const bool store_is_new = !layout.complete || fs::exists(layout.new_store_file());
  if (store_is_new && !fs::exists(mark)) arguments.push_back("--bootstrap");
  arguments.insert(arguments.end(),
                   {"--", "--listen-client-urls", client_url, "--advertise-client-urls", client_url,
                    "--listen-peer-urls", fmt::format("http://{}:{}", own_address, layout.etcd_peer_port()),
                    "--initial-advertise-peer-urls", etcd_peer_url(layout, member), "--initial-cluster", cluster,
                    "--initial-cluster-token", layout.run_id, "--logger", "zap", "--log-level", "warn"});
  ZP_CHECK(start_detached(layout, {arguments, std::string(member), log}));
  ZP_CHECK(wait_answer(layout, member, "etcd", log, [&] { return listens(own_address, layout.etcd_client_port()); }));
  std::error_code ignored;
  if (std::ranges::all_of(member_names, [&](auto name) { return fs::exists(layout.etcd_mark_file(name)); }))
    fs::remove(layout.new_store_file(), ignored);
  return {};
}

Result<void> wipe_target(const SandboxLayout& layout, const std::string& target) {
  const bool whole_store = target == "store";
  std::vector<std::string> members, states, drives;  // whose
  const std::string name = target.substr(target.find(':') + 1);
  if (whole_store) members = {"a", "b", "witness"};
  if (target == "witness" || target.starts_with("etcd:")) members = {name};
  if (target.starts_with("zpaird:")) states = {name};
  if (target == "a" || target == "b") members = states = drives = {target};
  if (members.empty() && states.empty())
    return fail(ErrorCode::invalid, "'{}' has no disk to wipe: there are a, b, witness, zpaird:a, etcd:a, store",
                target);
  for (const SandboxProcess& process : find_processes(layout.dir)) {
    const bool keeps_store = process.name.starts_with("etcd") && std::ranges::count(members, process.node) > 0;
    const bool keeps_state = !process.name.starts_with("etcd") && std::ranges::count(states, process.node) > 0;
    if (keeps_store || keeps_state)
      return fail(ErrorCode::refused, "{} of {} runs: end it first (zpair sandbox kill)", process.name, process.node);
  }
  std::error_code error;
  const auto remove = [&](const std::string& path) {
    if (!error) fs::remove_all(path, error);
  };
  for (const std::string& member : members) {
    remove(layout.etcd_dir(member) + "/data");
    remove(layout.etcd_mark_file(member));
    remove(layout.etcd_pins_file(member));
  }
  for (const std::string& node : states) {
    for (const auto& entry : fs::directory_iterator(layout.state_dir(node), error)) remove(entry.path().string());
  }
  for (const std::string& node : drives) {
    for (const auto& entry : fs::directory_iterator(layout.drives_dir(node), error)) remove(entry.path().string());
  }
  if (error) return fail(ErrorCode::io, "the disk of {} could not be wiped: {}", target, error.message());
  if (whole_store && !std::ofstream(layout.new_store_file()))
    return fail(ErrorCode::io, "cannot write {}", layout.new_store_file());
  return {};
}

Result<void> start_zpaird(const SandboxLayout& layout, std::string_view node) {
  const std::string log = fmt::format("{}/zpaird-{}.log", layout.log_dir(), node);
  ZP_CHECK(start_detached(layout,
                          {{own_folder() + "/zpaird", "--config", layout.config_file(node)}, std::string(node), log}));
  return wait_answer(layout, node, "zpaird", log, [&] {
    return api::call_and_wait({layout.api_socket(node), "GET", "/v1/status", ""}, 2000).has_value();
  });
}

Result<void> start_target(const SandboxLayout& layout, const std::string& target) {
  ZP_CHECK(matcher_of(target));
  const auto parts = parts_of(target);
  const auto wanted = [&](std::string_view part, std::string_view kind) {
    return std::any_of(parts.begin(), parts.end(),
                       [&](const auto& text) { return text == part || text == fmt::format("{}:{}", kind, part); });
  };
  if (wanted("switch", "switch") && !runs(layout, "switch", "switch")) ZP_CHECK(start_switch(layout));
  for (std::string_view member : member_names) {
    if (wanted(member, "etcd") && !runs(layout, member, "etcd")) ZP_CHECK(start_etcd(layout, member));
  }
  for (std::string_view node : node_names) {
    if (wanted(node, "zpaird") && !runs(layout, node, "zpaird")) ZP_CHECK(start_zpaird(layout, node));
  }
  if (target.starts_with("pool:")) {
    ZP_TRY(matches, matcher_of(target));
    if (!wait_until(answer_timeout_ms, [&] { return any_left(layout, matches); })) {
      return fail(ErrorCode::timed_out,
                  "no zpaird started {}: zpairds start their pool processes themselves, see zpair status", target);
    }
  }
  return {};
}

Result<void> kill_target(const SandboxLayout& layout, const std::string& target) {
  ZP_TRY(matches, matcher_of(target));
  const Deadline deadline = Deadline::in_ms(gone_timeout_ms);
  const bool only_those = target.starts_with("pool:");  // its zpaird starts another at once
  for (;;) {                                            // again: what was started in between
    ZP_TRY(handles, signal_all(layout, matches, SIGKILL));
    if (handles.empty()) break;
    if (!all_gone(handles, deadline)) return fail(ErrorCode::timed_out, "some process of {} does not die", target);
    if (only_those) return {};
  }
  if (only_those) return nothing_runs(target);
  return {};
}

Result<void> pause_target(const SandboxLayout& layout, const std::string& target) {
  ZP_TRY(matches, matcher_of(target));
  if (!any_left(layout, matches)) return nothing_runs(target);
  ZP_CHECK(signal_all(layout, matches, SIGSTOP));
  const bool all = wait_until(gone_timeout_ms, [&] {
    return !any_left(layout, [&](const auto& process) { return matches(process) && process.state != "paused"; });
  });
  if (!all) return fail(ErrorCode::timed_out, "some process of {} does not stop", target);
  return {};
}

Result<void> resume_target(const SandboxLayout& layout, const std::string& target) {
  ZP_TRY(matches, matcher_of(target));
  if (!any_left(layout, matches)) return nothing_runs(target);
  ZP_CHECK(signal_all(layout, matches, SIGCONT));
  return {};
}

Result<void> end_target(const SandboxLayout& layout, const std::string& target, std::int64_t grace_ms) {
  ZP_TRY(matches, matcher_of(target));
  ZP_TRY(handles, signal_all(layout, matches, SIGTERM));
  (void)signal_all(layout, matches, SIGCONT);  // a paused process cannot end
  if (all_gone(handles, Deadline::in_ms(grace_ms)) && !any_left(layout, matches)) return {};
  return kill_target(layout, target);
}

}  // namespace zpair::cli
