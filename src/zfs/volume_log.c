/*
 * The embedded OpenZFS: a volume's intent log, with the kernel's records (TX_WRITE, TX_TRUNCATE), so that either engine replays the
 * other's: what a commit asks for, and the replay when the volume is opened.
 */
#include "zfs/zfs_internal.h"

/*
 * OpenZFS 2.3.2 flushes the mirrors that a block pointer names.  Of a block in pieces (a gang) these are the header's only, and
 * the pieces may lie on any.
 */
static void
flush_every_mirror(struct lwb *lwb, spa_t *spa)
{
	uint64_t mirrors = spa->spa_root_vdev->vdev_children;

	for (uint64_t id = 0; id < mirrors; id++) {
		blkptr_t on_it;
		BP_ZERO(&on_it);
		DVA_SET_VDEV(&on_it.blk_dva[0], id);
		DVA_SET_ASIZE(&on_it.blk_dva[0], SPA_MINBLOCKSIZE);
		zil_lwb_add_block(lwb, &on_it);
	}
}

static void
get_done(zgd_t *zgd, int error)
{
	if (error == 0 && zgd->zgd_bp != NULL && BP_IS_GANG(zgd->zgd_bp))
		flush_every_mirror(zgd->zgd_lwb, ((dmu_buf_impl_t *)zgd->zgd_db)->db_objset->os_spa);
	if (zgd->zgd_db != NULL)
		dmu_buf_rele(zgd->zgd_db, zgd);
	zfs_rangelock_exit(zgd->zgd_lr);
	kmem_free(zgd, sizeof (*zgd));
}

/*
 * Whether the block was written to its final place when the record was noted (write_past_cache()), and where.  The caller holds
 * the range, hence no such write is under way.
 */
static boolean_t
written_already(dmu_buf_t *buffer, uint64_t txg, blkptr_t *place)
{
	dmu_buf_impl_t *block = (dmu_buf_impl_t *)buffer;

	mutex_enter(&block->db_mtx);
	dbuf_dirty_record_t *dirty = dbuf_find_dirty_eq(block, txg);
	boolean_t written = dirty != NULL && dirty->dt.dl.dr_diowrite && dirty->dt.dl.dr_override_state == DR_OVERRIDDEN;
	if (written)
		*place = dirty->dt.dl.dr_overridden_by;
	mutex_exit(&block->db_mtx);
	return (written);
}

/*
 * The data of a record that was noted without it: copied into the log (`buffer`), or, for WR_INDIRECT, written to its final
 * place now, unless it is there.  The log must be told which legs to flush before the commit is done: dmu_sync() does it by
 * zgd_lwb and zgd_bp; for a block that was written already we do.
 */
static int
get_data(void *context, uint64_t generation, lr_write_t *lr, char *buffer, struct lwb *lwb, zio_t *zio)
{
	zp_volume *volume = context;
	uint64_t offset = lr->lr_offset, size = lr->lr_length;
	zgd_t *zgd = kmem_zalloc(sizeof (*zgd), KM_SLEEP);
	int error;

	(void) generation;
	zgd->zgd_lwb = lwb;
	if (buffer != NULL) {
		zgd->zgd_lr = zfs_rangelock_enter(&volume->ranges, offset, size, RL_READER);
		error = dmu_read_by_dnode(volume->data, offset, size, buffer, DMU_READ_NO_PREFETCH);
	} else {
		dmu_buf_t *db;
		size = volume->block_size;
		offset = P2ALIGN_TYPED(offset, size, uint64_t);
		zgd->zgd_lr = zfs_rangelock_enter(&volume->ranges, offset, size, RL_READER);
		error = dmu_buf_hold_noread_by_dnode(volume->data, offset, zgd, &db);
		if (error == 0) {
			zgd->zgd_db = db;
			zgd->zgd_bp = &lr->lr_blkptr;
			if (written_already(db, lr->lr_common.lrc_txg, &lr->lr_blkptr)) {
				zil_lwb_add_block(lwb, &lr->lr_blkptr);
				get_done(zgd, 0);
				return (0);
			}
			error = dmu_sync(zio, lr->lr_common.lrc_txg, get_done, zgd);
			if (error == 0)
				return (0);
			/*
			 * Freed meanwhile, by a trim whose own record may not be committed yet: a log without either would
			 * bring back what was there before.  EIO makes the log wait for the txg instead.
			 */
			if (error == ENOENT)
				error = EIO;
		}
	}
	get_done(zgd, error);
	return (SET_ERROR(error));
}

/*
 * OpenZFS syncs and tries a record again after its first error, and drops the rest of the log after the second.  Rule 7: no
 * dropped log.  So the second one ends the process, with the log still on the legs; at an operator's word that record alone is lost.
 */
static int
replay_result(zp_volume *volume, uint64_t seq, uint64_t offset, uint64_t size, int error)
{
	if (error == 0) {
		volume->replayed_count++;
	} else if (volume->failed_replay_seq != seq) {
		volume->failed_replay_seq = seq;
	} else if (volume->pool->overridden) {
		cmn_err(CE_WARN, "volume %s: the write of %llu bytes at %llu (record %llu of its log) cannot be replayed (%s) and is lost, as an "
		    "operator asked", volume->name, (u_longlong_t)size, (u_longlong_t)offset, (u_longlong_t)seq, strerror(error));
		return (0);
	} else {
		zp_die("rule 7: record %llu of the log of volume %s cannot be replayed: %s. The log is kept; this process ends.",
		    (u_longlong_t)seq, volume->name, strerror(error));
	}
	return (error);
}

static int
replay_write(void *context, void *record, boolean_t byteswap)
{
	zp_volume *volume = context;
	lr_write_t *lr = record;

	if (byteswap)
		byteswap_uint64_array(lr, sizeof (*lr));
	uint64_t offset = lr->lr_offset, size = lr->lr_length;
	if (lr->lr_common.lrc_reclen == sizeof (*lr)) {		/* by reference: the whole block */
		uint64_t block_size = BP_GET_LSIZE(&lr->lr_blkptr);
		if (size < block_size) {
			offset -= offset % block_size;
			size = block_size;
		}
	}
	dmu_tx_t *tx = dmu_tx_create(volume->os);
	dmu_tx_hold_write(tx, DATA_OBJECT, offset, size);
	int error = dmu_tx_assign(tx, DMU_TX_WAIT);
	if (error != 0) {
		dmu_tx_abort(tx);
	} else {
		dmu_write(volume->os, DATA_OBJECT, offset, size, lr + 1, tx);
		(void) zil_replaying(volume->zilog, tx);
		dmu_tx_commit(tx);
	}
	return (replay_result(volume, lr->lr_common.lrc_seq, lr->lr_offset, lr->lr_length, error));
}

static int
replay_truncate(void *context, void *record, boolean_t byteswap)
{
	zp_volume *volume = context;
	lr_truncate_t *lr = record;

	if (byteswap)
		byteswap_uint64_array(lr, sizeof (*lr));
	int error = dmu_free_long_range(volume->os, DATA_OBJECT, lr->lr_offset, lr->lr_length);
	if (error == 0) {
		dmu_tx_t *tx = dmu_tx_create(volume->os);
		dmu_tx_mark_netfree(tx);
		error = dmu_tx_assign(tx, DMU_TX_WAIT);
		if (error != 0) {
			dmu_tx_abort(tx);
		} else {
			(void) zil_replaying(volume->zilog, tx);
			dmu_tx_commit(tx);
		}
	}
	return (replay_result(volume, lr->lr_common.lrc_seq, lr->lr_offset, lr->lr_length, error));
}

static int
replay_unknown(void *context, void *record, boolean_t byteswap)
{
	zp_volume *volume = context;
	(void) record;
	(void) byteswap;
	zp_die("rule 7: the log of volume %s holds a record that no volume writes. The log is kept; this process ends.", volume->name);
}

static zil_replay_func_t *replay[TX_MAX_TYPE];

static void __attribute__((constructor))
fill_replay(void)
{
	for (int type = 0; type < TX_MAX_TYPE; type++)
		replay[type] = type == TX_WRITE ? replay_write : type == TX_TRUNCATE ? replay_truncate : replay_unknown;
}

static void
free_volume(zp_volume *volume)
{
	zfs_rangelock_fini(&volume->ranges);
	mutex_destroy(&volume->fill_lock);
	cv_destroy(&volume->filled);
	free(volume);
}

int
zp_volume_open(zp_pool *pool, const char *name, uint64_t floor_sequence, zp_volume **volumep, uint64_t *replayed_count,
    struct zp_why *why)
{
	zp_volume *volume = calloc(1, sizeof (*volume));
	int error;

	volume->pool = pool;
	(void) snprintf(volume->name, sizeof (volume->name), "%s", name);
	error = dmu_objset_own(name, DMU_OST_ZVOL, B_FALSE, B_FALSE, volume, &volume->os);
	if (error != 0) {
		free(volume);
		return (zp_explain(why, error, "cannot open volume %s: %s", name,
		    error == EBUSY ? "it is open already" : strerror(error)));
	}
	error = zap_lookup(volume->os, PROPERTY_OBJECT, "size", 8, 1, &volume->size);
	if (error == 0)
		error = dnode_hold(volume->os, DATA_OBJECT, volume, &volume->data);
	if (error != 0) {
		dmu_objset_disown(volume->os, B_FALSE, volume);
		free(volume);
		return (zp_explain(why, error, "cannot read the layout of volume %s: %s", name, strerror(error)));
	}
	volume->block_size = volume->data->dn_datablksz;
	zfs_rangelock_init(&volume->ranges, NULL, NULL);
	mutex_init(&volume->fill_lock, NULL, MUTEX_DEFAULT, NULL);
	cv_init(&volume->filled, NULL, CV_DEFAULT, NULL);
	volume->zilog = zil_open(volume->os, get_data, NULL);

	const zil_header_t *header = volume->zilog->zl_header;
	uint64_t claimed_seq = header->zh_flags & ZIL_CLAIM_LR_SEQ_VALID ? header->zh_claim_lr_seq : 0;
	boolean_t must_replay = (header->zh_flags & ZIL_REPLAY_NEEDED) != 0;
	/*
	 * The floor's record is in a txg that was imported whole, or among the claimed ones; else the log was cut short.  A log
	 * that an earlier import claimed and did not replay, because it was refused, begins at that import.
	 */
	uint64_t whole_txg = header->zh_claim_txg != 0 ? MIN(pool->import_txg, header->zh_claim_txg - 1) : pool->import_txg;
	if (floor_sequence >> 32 > whole_txg && pool->import_txg != 0 && !zp_mutated(ZP_FLOOR_IGNORED) &&
	    (int32_t)((uint32_t)claimed_seq - (uint32_t)floor_sequence) < 0) {
		error = zp_explain(why, EPERM, "rule 7: the log of volume %s ends at record %llu, but record %llu of txg %llu was "
		    "committed", name, (u_longlong_t)(uint32_t)claimed_seq, (u_longlong_t)(uint32_t)floor_sequence,
		    (u_longlong_t)(floor_sequence >> 32));
	} else if (volume->zilog->zl_sync != ZFS_SYNC_ALWAYS) {
		error = zp_explain(why, EPERM, "rule 2: volume %s has sync=%s, only sync=always is served: zfs inherit sync %s", name,
		    volume->zilog->zl_sync == ZFS_SYNC_DISABLED ? "disabled" : "standard", name);
	}
	if (error != 0) {
		volume->zilog->zl_get_data = NULL;
		dnode_rele(volume->data, volume);
		dmu_objset_disown(volume->os, B_FALSE, volume);
		free_volume(volume);
		return (error);
	}
	(void) zil_replay(volume->os, volume, replay);
	if (must_replay && volume->zilog->zl_replaying_seq < claimed_seq) {
		zp_die("rule 7: the log of volume %s was replayed up to record %llu of %llu only", name,
		    (u_longlong_t)volume->zilog->zl_replaying_seq, (u_longlong_t)claimed_seq);
	}
	*replayed_count = volume->replayed_count;
	*volumep = volume;
	return (0);
}

/* The wait for a txg costs three, and an idle volume needs none. */
static boolean_t
has_unsynced(objset_t *os)
{
	for (int txg = 0; txg < TXG_SIZE; txg++) {
		if (txg_list_member(&dmu_objset_pool(os)->dp_dirty_datasets, dmu_objset_ds(os), txg))
			return (B_TRUE);
	}
	return (B_FALSE);
}

/* Since the volume was opened.  To close a log commits, which costs a txg too. */
static boolean_t
log_was_used(zilog_t *zilog)
{
	mutex_enter(&zilog->zl_lock);
	boolean_t used = zilog->zl_dirty_max_txg != 0 || !list_is_empty(&zilog->zl_lwb_list);
	mutex_exit(&zilog->zl_lock);
	return (used);
}

void
zp_volume_close(zp_volume *volume)
{
	if (log_was_used(volume->zilog))
		zil_close(volume->zilog);
	else
		volume->zilog->zl_get_data = NULL;
	dnode_rele(volume->data, volume);
	if (has_unsynced(volume->os))
		txg_wait_synced(dmu_objset_pool(volume->os), 0);
	dmu_objset_disown(volume->os, B_FALSE, volume);
	free_volume(volume);
}

uint64_t
zp_volume_size(const zp_volume *volume)
{
	return (__atomic_load_n(&volume->size, __ATOMIC_ACQUIRE));
}

struct zp_direct
zp_volume_direct(const zp_volume *volume)
{
	return ((struct zp_direct) { __atomic_load_n(&volume->direct_bytes, __ATOMIC_RELAXED),
	    __atomic_load_n(&volume->direct_read_bytes, __ATOMIC_RELAXED) });
}

uint64_t
zp_volume_sequence(const zp_volume *volume)
{
	return (__atomic_load_n(&volume->sequence, __ATOMIC_RELAXED));
}
