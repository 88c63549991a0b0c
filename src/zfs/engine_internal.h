#pragma once
// The plain C border inside this room: on one side the *.c files, which see libzpool's headers; on the other
// the C++ that sees BlockDevice and the reactor. Numbers of errors are errno's; `why` is for a person.
// Threading: zp_* functions of the C side may wait for txgs and I/O: engine threads only, never the reactor, unless marked.
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ZP_WHY_SIZE = 512, ZP_NAME_SIZE = 256, ZP_UBERBLOCKS_MAX = 512 };

struct zp_why {
  char text[ZP_WHY_SIZE];
};

// The one way out for what must never go on (rule 2). Also for libzpool's side of an assertion.
void zp_die(const char* format, ...) __attribute__((noreturn, format(printf, 1, 2)));

// ---- start (engine.c)
struct zp_engine_options {
  const char* config_folder;
  uint32_t zfs_host_id;
  uint64_t arc_bytes, dirty_bytes, log_bytes;
};
int zp_engine_start(const struct zp_engine_options* options, struct zp_why* why);
// Of the running engine too.
void zp_engine_limit(uint64_t arc_bytes, uint64_t dirty_bytes, uint64_t log_bytes);
int zp_gate_self_test(struct zp_why* why);
// What the gate saw since the start: mirror writes, and those that were short on a leg outside the ack set.
void zp_gate_counts(uint64_t* writes, uint64_t* allowed_short_writes);
// How often a hand-over was spared since the start (pipeline.c): log blocks issued, roots ended.
void zp_pipeline_counts(uint64_t* log_blocks, uint64_t* roots);

struct zp_tunable {
  const char* name;
  const char* unit;
  const char* meaning;
  uint64_t least, most;
};
int zp_tunable_count(void);
const struct zp_tunable* zp_tunable_at(int index);
uint64_t zp_tunable_get(int index);
void zp_tunable_set(int index, uint64_t value);

extern int zp_durable_log_writes, zp_direct_writes, zp_direct_reads;  // tunables of ours

// ---- the driver (gate.c calls these, leg_driver.cpp has them; any thread)
enum zp_operation { ZP_READ, ZP_WRITE, ZP_FLUSH, ZP_TRIM };

// One command. Its data lies in a buffer of the driver's, not of OpenZFS's: a leg that does not answer must be failed while
// its device still owns the buffer, and OpenZFS frees its own as soon as the command has failed.
struct zp_leg_io {
  struct zp_leg_io* next;  // in the hand-over to the reactor
  void* zio;               // NULL: OpenZFS has its answer, the device has not given one yet
  void* leg;
  enum zp_operation operation;
  int of_log;  // a write that a commit waits for, and a flush after it
  uint64_t offset_bytes, size_bytes;
  int in_labels;  // touches the leg's labels: ZFS addressed it to this leaf
  void* buffer;   // aligned for direct I/O; NULL for flush and trim
};
void* zp_leg_find(uint64_t guid, const char* path);  // NULL: not offered to ZFS
int zp_leg_offered(void* leg, uint64_t* size_bytes, uint32_t* block_size_bytes,
                   int* remote);  // 0 when it may be opened
int zp_leg_in_ack_set(void* leg);
int zp_guid_in_ack_set(uint64_t guid);
struct zp_leg_io* zp_leg_io_new(enum zp_operation operation, uint64_t size_bytes);  // with its buffer
void zp_leg_io_free(struct zp_leg_io* io);
void zp_leg_submit(struct zp_leg_io* io);
int zp_leg_all_flushed(void* leg);  // every write that it completed is durable: a flush has nothing to do
// The C side: completes the zio. `data`: a read's, taken over (it is copied and freed on a thread of OpenZFS), else NULL.
// Any thread, the reactor too.
void zp_zio_done(void* zio, int error, struct zp_leg_io* data);

// ---- pools (engine.c)
struct zp_leg_spec {
  const char* path;
};
struct zp_mirror_spec {
  const char* vdev_class;
  const struct zp_leg_spec* legs;
  int leg_count;
};
struct zp_leaf {
  uint64_t guid, mirror_guid, top_id;
  char path[ZP_NAME_SIZE];
  int state;                          // vdev_state_t
  int offline, replacing, dtl_empty;  // replacing: below a replacing vdev
  uint64_t read_errors, write_errors, checksum_errors, repaired_bytes;
};
struct zp_pool_stats {
  uint64_t guid, size_bytes, allocated_bytes, last_synced_txg, data_errors;
  int suspended;
  int scan_kind;   // 0 none, 1 resilver, 2 scrub
  int scan_state;  // 0 none, 1 running, 2 finished, 3 cancelled
  uint64_t scan_done_bytes, scan_total_bytes, scan_repaired_bytes, scan_errors, scan_min_txg, scan_max_txg;
};
typedef struct zp_pool zp_pool;

int zp_pool_create(const char* name, const struct zp_mirror_spec* mirrors, int count, const char* compression,
                   zp_pool** pool, struct zp_why* why);
int zp_pool_destroy(zp_pool* pool, struct zp_why* why);  // frees `pool` when it succeeds
// The same. To the partner: all is synced, but the labels call the pool active, as they soon will again.
int zp_pool_export(zp_pool* pool, int to_partner, struct zp_why* why);
int zp_pool_look(zp_pool* pool, struct zp_pool_stats* stats);
int zp_pool_leaves(zp_pool* pool, struct zp_leaf* leaves, int capacity);  // returns how many there are
uint64_t zp_pool_last_synced_txg(const zp_pool* pool);                    // any thread, the reactor too
void zp_pool_wait_synced(zp_pool* pool);

// ---- labels and import (import.c)
struct zp_label {
  void* nvlist;  // of the newest label; zp_label_free
  char pool_name[ZP_NAME_SIZE];
  uint64_t pool_guid, leg_guid, mirror_guid, top_id, top_count, label_txg, pool_state;
  uint32_t zfs_host_id;
  uint64_t best_uberblock_txg;
  uint64_t uberblock_txgs[ZP_UBERBLOCKS_MAX];  // ascending, each once
  int uberblock_count;
};
enum { ZP_LABEL_SIZE = 256 << 10 };
// The four labels of a device of this size, ZP_LABEL_SIZE each (NULL: not read). All uberblocks, or the newest alone. Any thread.
// ENOENT: no label.
int zp_label_parse(const void* const labels[4], uint64_t device_size_bytes, int all_uberblocks, struct zp_label* label);
void zp_label_free(struct zp_label* label);
struct zp_log_floor {
  uint64_t volume_guid;
  uint64_t sequence;  // txg << 32 | record, as zp_volume_sequence()
};
// What must be there before anything is written. Not enforced: an operator's override only; then `why` has the first that is not.
struct zp_import_check {
  int enforce;
  int labels_stand;  // they call the pool active, and one of our nodes' own
  const struct zp_log_floor* floors;
  int floor_count;
  // Called for each volume, from any thread, one at a time; guid 0: it cannot be read. `log_is_live`: has a log, which a claim keeps.
  void (*found)(void* context, const char* name, uint64_t guid, int log_is_live);
  void* context;
};
int zp_pool_import(const char* name, struct zp_label* const* labels, int count, const struct zp_import_check* check,
                   zp_pool** pool, uint64_t* uberblock_txg, struct zp_why* why);

// ---- a leg's life (legs.c)
int zp_legs_offline(zp_pool* pool, const uint64_t* guids, int count, struct zp_why* why);
struct zp_resync {
  void (*on_progress)(void* context, const struct zp_pool_stats* stats);  // from the waiting thread
  void* context;
  struct zp_pool_stats scan;  // how it ended
  int accepted;
};
// Rule 8, in one call: seeds and brings online leg by leg, resyncs all of them, verifies. 0: `resync` says whether it is accepted.
int zp_legs_bring_back(zp_pool* pool, const uint64_t* guids, int count, uint64_t since, struct zp_resync* resync,
                       struct zp_why* why);
// `beside`: any leg of the mirror, or the one to replace.
int zp_leg_attach(zp_pool* pool, uint64_t beside, const char* path, int replacing, uint64_t* guid, struct zp_why* why);
int zp_leg_finish_attach(zp_pool* pool, uint64_t guid, struct zp_resync* resync, struct zp_why* why);
int zp_leg_detach(zp_pool* pool, uint64_t guid, struct zp_why* why);
int zp_mirrors_add(zp_pool* pool, const struct zp_mirror_spec* mirrors, int count, struct zp_why* why);
int zp_scrub_start(zp_pool* pool, struct zp_why* why);
int zp_scan_cancel(zp_pool* pool, struct zp_why* why);

// ---- volumes (datasets.c, volume_log.c, volume.c, volume_write.c); names with the pool's
struct zp_volume_info {
  char name[ZP_NAME_SIZE];
  uint64_t guid, size_bytes, reserved_bytes, used_bytes, referenced_bytes;
  uint32_t block_size_bytes;
  char compression[32];
};
typedef struct zp_volume zp_volume;

int zp_volume_create(const char* name, uint64_t size_bytes, uint32_t block_size_bytes, int thick,
                     const char* compression, struct zp_why* why);
int zp_volume_destroy(const char* name, struct zp_why* why);
int zp_volume_resize(const char* name, zp_volume* open_volume, uint64_t size_bytes, struct zp_why* why);
int zp_volume_snapshot(const char* name, const char* snapshot, struct zp_why* why);
int zp_snapshot_destroy(const char* name, const char* snapshot, struct zp_why* why);
// A new volume that begins as the snapshot ("POOL/VOLUME@SNAPSHOT") is.
int zp_volume_clone(const char* snapshot, const char* name, int thick, struct zp_why* why);
// The volume becomes its newest snapshot again; nothing may have it open. A newer snapshot: EPERM.
int zp_volume_rollback(const char* name, const char* snapshot, struct zp_why* why);
// ENOTBLK: no volume. Any other error: `info` has what could be read, the name at least; a guid of 0 is not known.
int zp_volume_look(const char* name, struct zp_volume_info* info, struct zp_why* why);
// Calls back for each volume and each snapshot (name with @) below the pool, until it returns other than 0.
int zp_volumes_each(zp_pool* pool, int (*found)(void* context, const char* name), void* context);
int zp_property_set(const char* name, const char* property, const char* value, struct zp_why* why);
/* A property of our own (its name has a colon), at most ZP_NOTE_SIZE - 1 long; none set: the empty text. */
#define ZP_NOTE_SIZE 8192
int zp_note_set(const char* name, const char* note, const char* value, struct zp_why* why);
int zp_note_get(const char* name, const char* note, char value[ZP_NOTE_SIZE], struct zp_why* why);

// Opens and replays the log, which must reach `floor_sequence` (0: any). refused: EPERM.
int zp_volume_open(zp_pool* pool, const char* name, uint64_t floor_sequence, zp_volume** volume,
                   uint64_t* replayed_count, struct zp_why* why);
void zp_volume_close(zp_volume* volume);
int zp_volume_look_open(zp_volume* volume, struct zp_volume_info* info, struct zp_why* why);
uint64_t zp_volume_size(const zp_volume* volume);      // any thread
uint64_t zp_volume_sequence(const zp_volume* volume);  // any thread
struct zp_direct {
  uint64_t written_bytes, read_bytes;
};
struct zp_direct zp_volume_direct(const zp_volume* volume);  // any thread; what went past the cache since it was opened
uint64_t zp_volume_partial_writes(const zp_volume* volume);  // any thread; since it was opened (partial_write.c)
// Calls `done` once, from this or another thread, which it must not hold up: the bytes are there, or `error` says why not.
typedef void zp_read_done(void* context, void* request, int error);
void zp_volume_read(zp_volume* volume, const struct iovec* iov, uint64_t offset_bytes, uint64_t size_bytes,
                    zp_read_done* done, void* context, void* request);
struct zp_extent {
  uint64_t size_bytes;
  int is_hole;
};
// The first extents of the range, one at least, `capacity` at most; fewer when many indirect blocks have to be read. A
// hole is one only where no block is: what a txg has not synced is data. 0: `count` has how many; else an indirect block
// cannot be read. May wait for the legs.
int zp_volume_extents(zp_volume* volume, uint64_t offset_bytes, uint64_t size_bytes, struct zp_extent* extents,
                      int capacity, int* count);
// What a batch wrote is durable, and may be read, only after its commit.
struct zp_batch {
  uint64_t newest_txg;  // of its records
  uint64_t log_before;  // the log's sequence before its first record
  // partial_write.c
  struct zp_group* group;     // of writes whose records are not noted yet
  unsigned filling;           // groups whose blocks are not filled yet
  uint64_t noted_again_txg;   // the newest of a record that was noted since the commit
  struct zp_group* unfilled;  // for which there was no room
};
void zp_batch_begin(zp_volume* volume, struct zp_batch* batch);
// `error` is set once the batch is committed; `iov` must last until then.
void zp_volume_write(zp_volume* volume, struct zp_batch* batch, const struct iovec* iov, uint64_t offset_bytes,
                     uint64_t size_bytes, int* error);
int zp_volume_free(zp_volume* volume, struct zp_batch* batch, uint64_t offset_bytes, uint64_t size_bytes);
void zp_batch_commit(zp_volume* volume, struct zp_batch* batch);

#ifdef __cplusplus
}
#endif
