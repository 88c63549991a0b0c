/*
 * What the *.c files share: libzpool's headers, and the handles of pools and volumes. Only they include it.
 * libzpool is a debug build: ZFS_DEBUG and DEBUG must be defined here too, or the layout of its structures differs.
 */
#ifndef ZPAIR_ZFS_INTERNAL_H
#define ZPAIR_ZFS_INTERNAL_H
#if !defined(ZFS_DEBUG) || !defined(DEBUG) || defined(NDEBUG)
#error "build with -DZFS_DEBUG -DDEBUG -UNDEBUG, as libzpool is"
#endif
#include <sys/zfs_context.h>
#include <sys/spa.h>
#include <sys/spa_impl.h>
#include <sys/vdev.h>
#include <sys/vdev_impl.h>
#include <sys/zio.h>
#include <sys/zio_checksum.h>
#include <sys/zil.h>
#include <sys/zil_impl.h>
#include <sys/dmu.h>
#include <sys/dmu_impl.h>
#include <sys/dmu_objset.h>
#include <sys/dmu_tx.h>
#include <sys/dsl_pool.h>
#include <sys/dsl_synctask.h>
#include <sys/dsl_dir.h>
#include <sys/dsl_dataset.h>
#include <sys/dsl_destroy.h>
#include <sys/dsl_prop.h>
#include <sys/dsl_scan.h>
#include <sys/dnode.h>
#include <sys/zap.h>
#include <sys/abd.h>
#include <sys/arc.h>
#include <sys/txg.h>
#include <sys/uberblock_impl.h>
#include <sys/zfs_rlock.h>
#include <sys/mmp.h>
#include <sys/fs/zfs.h>
#include <sys/zfs_impl.h>
#include <zfeature_common.h>

#include "zfs/engine_internal.h"
#include "zfs/mutation.h"

struct zp_pool {
	spa_t *spa;	/* held open */
	char name[ZP_NAME_SIZE];
	uint64_t import_txg;	/* uberblock at import; 0: created here */
	uint64_t attach_txg;	/* of the newest attach */
	boolean_t overridden;	/* an operator has accepted that its import lacks something (rule 11) */
	uint64_t direct_txg[TXG_SIZE], direct_bytes[TXG_SIZE];	/* what volumes wrote past the cache, by txg; atomics */
};

int zp_explain(struct zp_why *why, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* engine.c: opens a pool that is in the library's namespace, and checks its layout; a tree of vdevs for a new one */
int zp_pool_hold(const char *name, zp_pool **pool, struct zp_why *why);
nvlist_t *zp_mirror_tree(const struct zp_mirror_spec *mirrors, int count);

/* import.c: an operator has accepted that the import lacks something (rule 11) */
boolean_t zp_import_is_overridden(void);

/* gate.c: our leaf driver, and what the gate must know of it */
void zp_gate_install(void);

/* pipeline.c */
void zp_pipeline_install(void);

/* A volume's objects, as the kernel numbers them. */
#define	DATA_OBJECT	1ULL
#define	PROPERTY_OBJECT	2ULL

/* An open volume (volume_log.c). */
struct zp_volume {
	zp_pool *pool;
	char name[ZP_NAME_SIZE];
	objset_t *os;
	zilog_t *zilog;
	dnode_t *data;
	zfs_rangelock_t ranges;
	uint64_t size;
	uint32_t block_size;
	uint64_t direct_bytes, direct_read_bytes;	/* written and read past the cache */
	uint64_t partial_writes;
	uint64_t sequence;		/* newest committed: txg << 32 | low half of the log's own sequence */
	uint64_t replayed_count;
	uint64_t failed_replay_seq;
	kmutex_t fill_lock;		/* partial_write.c; of what fillers change in a batch */
	kcondvar_t filled;
};

/* volume.c: walks iovecs; where the next bytes come from or go to. */
struct zp_cursor {
	const struct iovec *iov;
	size_t used;
};
void *zp_next_piece(struct zp_cursor *cursor, uint64_t most, uint64_t *size);

/* volume_write.c */
boolean_t zp_is_copied_to_log(const zp_volume *volume, uint64_t size);
int zp_write_now(zp_volume *volume, struct zp_batch *batch, const struct iovec *iov, uint64_t offset, uint64_t size);
void zp_note_write(zp_volume *volume, dmu_tx_t *tx, struct zp_cursor from, uint64_t offset, uint64_t size);

/* partial_write.c */
void zp_partial_install(void);
boolean_t zp_partial_take(zp_volume *volume, struct zp_batch *batch, const struct iovec *iov, uint64_t offset, uint64_t size, int *error,
    zfs_locked_range_t *range);
void zp_partial_note(zp_volume *volume, struct zp_batch *batch);
boolean_t zp_partial_wait(zp_volume *volume, struct zp_batch *batch);

#endif
