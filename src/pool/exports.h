#pragma once
// The pool's volumes as the clients see them: opens each volume, exports it over NBD on the listening socket that zpaird
// handed over, and on links of the partner's relay. Nobody is let in before serve().
// Ownership: the engine's pool outlives it. close() before the pool is exported.
// Threading: reactor thread.
// Errors:    as the engine's; a volume that does not open is told and left out, the others serve.
//
// What changes a volume's data under its clients (destroy, rollback) is refused while it has any. A client whose connection
// ended without a goodbye counts for `may_come_back_ms` more, and so does, after an import, whoever was a client of the
// former process: it connects again and sends what was not answered. A client that is away for longer is told apart only by
// the volume's guid in its export name (nbd/handshake.h), and not at all after a rollback.
// Source:    rules 6 and 10; design, section 4.
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "block/task.h"
#include "nbd/server.h"
#include "zfs/pool.h"
#include "zfs/volume.h"

namespace zpair::pool {

struct VolumeView {
  zfs::VolumeInfo info;
  bool open = false;  // or opens when a client asks
  std::uint32_t client_count = 0;
  std::string problem{};  // why it is not served; else empty
};

class Exports {
 public:
  struct Options {
    std::string pool_name;
    std::int64_t may_come_back_ms = 20'000;  // QEMU's longest wait between two tries is 16 s
    std::function<bool()> read_permitted;    // rule 6
    std::function<void()> volumes_changed;
    std::function<void(std::string)> left_out;  // an imported volume that does not open, and why: in one line
  };
  Exports(zfs::Pool& pool, Options options);
  ~Exports();

  // What an import found; no client yet. Those with a log open now: they have clients, most likely. The others open while these
  // are served, and at once for a client that asks: a takeover takes no longer for a thousand volumes that nobody uses.
  block::Task<Result<void>> open_imported(std::vector<zfs::ImportedVolume> volumes);
  void serve();  // rule 6: acknowledgements may leave from now on
  bool serving() const { return serving_; }
  block::Task<void> drain();  // takes nothing new; returns when all requests have finished
  block::Task<void> close();  // ends all clients, waits for changes, closes the volumes

  // Of a former volume of that name they are closed, by their guid.
  void take_socket(std::string volume, std::uint64_t guid, UniqueFd listening);
  void take_client(std::string volume, std::uint64_t guid, UniqueFd connected);  // it waits until the volume serves
  void take_relay_link(UniqueFd connected);  // its LinkHeader names volume and session
  void recheck_reads() { server_.recheck_reads(); }

  // One change of a volume at a time: another one meanwhile is refused.
  block::Task<Result<zfs::VolumeInfo>> create(zfs::VolumeSpec spec);
  block::Task<Result<void>> resize(std::string name, std::uint64_t size_bytes);
  block::Task<Result<void>> destroy(std::string name);  // refused while it has clients
  block::Task<Result<void>> snapshot(std::string name, std::string snapshot);
  block::Task<Result<void>> destroy_snapshot(std::string name, std::string snapshot);
  block::Task<Result<zfs::VolumeInfo>> clone(std::string name, std::string snapshot, std::string clone,
                                             zfs::VolumeSpec::Space space);
  block::Task<Result<void>> roll_back(std::string name, std::string snapshot);  // refused while it has clients
  block::Task<Result<std::vector<VolumeView>>> list();                          // asks the engine

  struct Known {
    std::string name;
    std::uint64_t size_bytes = 0;  // 0: imported, and not opened yet
    std::uint64_t guid = 0;
    std::string problem{};  // as in VolumeView
  };
  std::vector<Known> known() const;  // from memory; guid 0: it cannot be read, and has no socket
  std::uint32_t client_count(const std::string& volume) const;
  std::uint32_t client_count() const;    // of all volumes
  std::uint64_t answered_count() const;  // requests of all clients ever answered with success

 private:
  struct Entry {
    std::unique_ptr<zfs::Volume> volume;
    UniqueFd socket;  // kept: a socket that came before its volume serves
    std::uint64_t socket_guid = 0;
    bool listening = false;
    bool imported = false;  // it had clients of a former process, perhaps
    bool pending = false;   // imported, and not opened yet
    Known known;            // stays while the volume is shut for a moment: its socket must too. guid 0: no volume yet
  };
  // While it lives, nobody else changes the volume, and close() waits.
  struct Change {
    Change(Exports& host, std::string volume) : exports(host), name(std::move(volume)) {
      exports.changing_.insert(name);
    }
    ~Change() {
      exports.changing_.erase(name);
      exports.change_over_.set();
      exports.change_over_.reset();
    }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;
    Exports& exports;
    std::string name;
  };
  Result<void> check_free(const std::string& name) const;
  Result<void> check_known(const std::string& name) const;
  Result<void> check_no_client(const std::string& name) const;
  block::Task<Result<void>> open(std::string name);
  block::Task<void> open_pending(std::string name);  // nothing to do for any other
  std::string next_pending() const;
  block::Task<void> open_rest();
  block::Task<Result<zfs::VolumeInfo>> begin(zfs::VolumeInfo info);
  block::Task<void> shut(std::string name);
  block::Task<void> run_relay_link(UniqueFd connected);
  void listen_where_possible(const std::string& name, Entry& entry);
  std::string export_name(const std::string& volume) const { return options_.pool_name + "/" + volume; }

  zfs::Pool& pool_;
  Options options_;
  nbd::Server server_;
  std::map<std::string, Entry> entries_;
  struct Client {
    std::string volume;
    std::uint64_t guid;
    UniqueFd fd;
  };
  std::vector<Client> waiting_clients_;
  std::set<std::string> changing_;
  block::Signal change_over_;
  bool serving_ = false;
  Nanoseconds serving_since_ns_ = 0;
  bool closed_ = false;
  block::TaskGroup tasks_;
};

}  // namespace zpair::pool
