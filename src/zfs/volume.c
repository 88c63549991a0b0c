/*
 * The embedded OpenZFS, third part: volumes, laid out as the kernel's zvols are (object 1 the data, object 2 a ZAP with
 * "size", TX_WRITE and TX_TRUNCATE in the intent log), so that either engine replays the other's log.
 *
 * What zp_volume_write() did is in memory and in the list of log records; zp_batch_commit() makes it durable: it returns when
 * the log blocks are written and flushed on every leg of the ack set (the gate and the driver see to it).
 */
#include "zfs/zfs_internal.h"

#define	DATA_OBJECT	1ULL
#define	PROPERTY_OBJECT	2ULL
#define	WRITE_MOST	(1ULL << 20)	/* bytes in one transaction */
#define	REFERENCE_LEAST	(64ULL << 10)
#define	REFERENCE_LEAST_BLOCK	(16ULL << 10)
#define	WRITE_LEAST	(128ULL << 10)	/* the same, when space is short */
#define	DIRECT_LEAST_FREE	16		/* direct writes while 1 / 16 of the pool is free */

struct zp_volume {
	zp_pool *pool;
	char name[ZP_NAME_SIZE];
	objset_t *os;
	zilog_t *zilog;
	dnode_t *data;
	zfs_rangelock_t ranges;
	uint64_t size;
	uint32_t block_size;
	uint64_t direct_bytes;		/* written past the cache */
	uint64_t sequence;		/* newest committed: txg << 32 | low half of the log's own sequence */
	uint64_t replayed_count;
	uint64_t failed_replay_seq;
};

/* ---- create and the like */

struct layout {
	uint64_t size;
	uint32_t block_size;
};

static void
lay_out(objset_t *os, void *context, cred_t *cred, dmu_tx_t *tx)
{
	struct layout *layout = context;
	(void) cred;
	VERIFY0(dmu_object_claim(os, DATA_OBJECT, DMU_OT_ZVOL, layout->block_size, DMU_OT_NONE, 0, tx));
	VERIFY0(zap_create_claim(os, PROPERTY_OBJECT, DMU_OT_ZVOL_PROP, DMU_OT_NONE, 0, tx));
	VERIFY0(zap_update(os, PROPERTY_OBJECT, "size", 8, 1, &layout->size, tx));
}

/*
 * What a full volume takes: its data and the indirect blocks over it, which OpenZFS stores in one copy more (as libzfs
 * reckons for `zfs create -V`).
 */
static uint64_t
full_size(uint64_t size, uint64_t block_size)
{
	uint64_t indirect = 7;
	for (uint64_t blocks = size / block_size; blocks > 1; ) {
		blocks = (blocks + 127) / 128;
		indirect += blocks;
	}
	return (size + indirect * 2 * (1ULL << DN_MAX_INDBLKSHIFT));
}

int
zp_property_set(const char *name, const char *property, const char *value, struct zp_why *why)
{
	zfs_prop_t prop = zfs_name_to_prop(property);
	uint64_t number;
	int error;

	switch (prop) {
	case ZFS_PROP_SYNC:
		return (zp_explain(why, EPERM, "sync is always (rule 2): it cannot be set on %s", name));
	case ZFS_PROP_COMPRESSION:
	case ZFS_PROP_LOGBIAS:
	case ZFS_PROP_PRIMARYCACHE:
	case ZFS_PROP_CHECKSUM:
	case ZFS_PROP_REDUNDANT_METADATA:
		break;
	default:
		return (zp_explain(why, EINVAL, "property %s cannot be set here", property));
	}
	if (zfs_prop_string_to_index(prop, value, &number) != 0)
		return (zp_explain(why, EINVAL, "%s is no value of property %s", value, property));
	if (prop == ZFS_PROP_CHECKSUM && number == ZIO_CHECKSUM_OFF)
		return (zp_explain(why, EPERM, "checksums stay on"));
	error = dsl_prop_set_int(name, property, ZPROP_SRC_LOCAL, number);
	if (error != 0)
		return (zp_explain(why, error, "cannot set %s=%s on %s: %s", property, value, name, strerror(error)));
	return (0);
}

int
zp_note_set(const char *name, const char *note, const char *value, struct zp_why *why)
{
	if (strlen(value) >= ZP_NOTE_SIZE)
		return (zp_explain(why, EINVAL, "%s on %s would be longer than %d bytes", note, name, ZP_NOTE_SIZE - 1));
	int error = dsl_prop_set_string(name, note, ZPROP_SRC_LOCAL, value);
	if (error != 0)
		return (zp_explain(why, error, "cannot set %s on %s: %s", note, name, strerror(error)));
	return (0);
}

int
zp_note_get(const char *name, const char *note, char value[ZP_NOTE_SIZE], struct zp_why *why)
{
	int error = dsl_prop_get(name, note, 1, ZP_NOTE_SIZE, value, NULL);
	if (error == ENOENT) {
		value[0] = '\0';
		return (0);
	}
	if (error != 0)
		return (zp_explain(why, error, "cannot read %s of %s: %s", note, name, strerror(error)));
	return (0);
}

/* Thick: all that the volume may ever hold is set aside for it. */
static int
reserve(const char *name, uint64_t size, uint64_t block_size, struct zp_why *why)
{
	uint64_t bytes = full_size(size, block_size);
	int error = dsl_dataset_set_refreservation(name, ZPROP_SRC_LOCAL, bytes);
	if (error != 0)
		return (zp_explain(why, error, "cannot reserve %llu bytes for volume %s: %s", (u_longlong_t)bytes, name,
		    error == ENOSPC ? "the pool has not that much free (a thin volume reserves nothing)" : strerror(error)));
	return (0);
}

int
zp_volume_create(const char *name, uint64_t size, uint32_t block_size, int thick, const char *compression, struct zp_why *why)
{
	struct layout layout = { size, block_size };
	int error = dmu_objset_create(name, DMU_OST_ZVOL, 0, NULL, lay_out, &layout);

	if (error != 0)
		return (zp_explain(why, error, "cannot create volume %s: %s", name, strerror(error)));
	if (thick)
		error = reserve(name, size, block_size, why);
	if (error == 0 && compression != NULL && compression[0] != '\0')
		error = zp_property_set(name, "compression", compression, why);
	if (error != 0)
		(void) dsl_destroy_head(name);
	return (error);
}

int
zp_volume_destroy(const char *name, struct zp_why *why)
{
	int error = dsl_destroy_head(name);
	/* Our caller has it open no more: what else keeps a volume is what hangs on it. */
	if (error == EEXIST || error == EBUSY)
		return (zp_explain(why, EPERM, "cannot destroy volume %s: it has snapshots, which would go with it: destroy them first "
		    "(zpair volume destroy %s@SNAPSHOT)", name, name));
	if (error != 0)
		return (zp_explain(why, error, "cannot destroy volume %s: %s", name, strerror(error)));
	return (0);
}

int
zp_volume_snapshot(const char *name, const char *snapshot, struct zp_why *why)
{
	int error = dmu_objset_snapshot_one(name, snapshot);
	if (error != 0) {
		return (zp_explain(why, error, "cannot take snapshot %s@%s: %s", name, snapshot,
		    error == ENOSPC ? "a thick volume's snapshot needs room to overwrite all of it" : strerror(error)));
	}
	return (0);
}

int
zp_snapshot_destroy(const char *name, const char *snapshot, struct zp_why *why)
{
	char full[ZP_NAME_SIZE];
	struct zp_volume_info info;
	(void) snprintf(full, sizeof (full), "%s@%s", name, snapshot);
	int error = zp_volume_look(full, &info, why);	/* OpenZFS calls a snapshot that never was destroyed */
	if (error != 0)
		return (error);
	error = dsl_destroy_snapshot(full, B_FALSE);
	if (error == EEXIST)
		return (zp_explain(why, EPERM, "cannot destroy snapshot %s: clones are made of it", full));
	if (error != 0)
		return (zp_explain(why, error, "cannot destroy snapshot %s: %s", full, strerror(error)));
	return (0);
}

int
zp_volume_clone(const char *snapshot, const char *name, int thick, struct zp_why *why)
{
	struct zp_volume_info info;
	int error = dmu_objset_clone(name, snapshot);

	if (error != 0)
		return (zp_explain(why, error, "cannot clone %s as %s: %s", snapshot, name,
		    error == EEXIST ? "there is a volume of that name" : error == ENOENT ? "there is no such snapshot" :
		    strerror(error)));
	error = zp_volume_look(name, &info, why);
	if (error == 0 && thick)
		error = reserve(name, info.size_bytes, info.block_size_bytes, why);
	if (error != 0)
		(void) dsl_destroy_head(name);
	return (error);
}

/*
 * In one txg, the log's header emptied with it: a crash leaves the volume as it was, with its log, or as the snapshot is.  The
 * size and a thick volume's reservation follow; a reservation that is still the former one keeps too much, never too little.
 */
int
zp_volume_rollback(const char *name, const char *snapshot, struct zp_why *why)
{
	struct zp_volume_info before, after;
	char full[ZP_NAME_SIZE];
	(void) snprintf(full, sizeof (full), "%s@%s", name, snapshot);
	int error = zp_volume_look(name, &before, why);

	if (error != 0)
		return (error);
	nvlist_t *result = fnvlist_alloc();
	error = dsl_dataset_rollback(name, full, NULL, result);
	fnvlist_free(result);
	switch (error) {
	case 0:
		break;
	case EEXIST:
		return (zp_explain(why, EPERM, "cannot roll volume %s back to %s: it has newer snapshots, which would go with it, and only "
		    "the newest one can be rolled back to", name, full));
	case ESRCH:
		return (zp_explain(why, ENOENT, "cannot roll volume %s back: there is no snapshot %s", name, full));
	case ENOSPC:
		return (zp_explain(why, ENOSPC, "cannot roll volume %s back to %s: the pool has not enough free to keep its reservation "
		    "meanwhile", name, full));
	default:
		return (zp_explain(why, error, "cannot roll volume %s back to %s: %s", name, full,
		    error == EBUSY ? "it is in use" : strerror(error)));
	}
	error = zp_volume_look(name, &after, why);
	if (error == 0 && before.reserved_bytes != 0 && after.size_bytes != before.size_bytes)
		error = reserve(name, after.size_bytes, after.block_size_bytes, why);
	if (error != 0) {
		struct zp_why then = *why;
		return (zp_explain(why, error, "volume %s is rolled back to %s, but then: %s", name, full, then.text));
	}
	return (0);
}

int
zp_volume_resize(const char *name, zp_volume *volume, uint64_t size, struct zp_why *why)
{
	struct zp_volume_info info;
	objset_t *os = volume != NULL ? volume->os : NULL;
	int error = zp_volume_look(name, &info, why);

	if (error != 0)
		return (error);
	if (size < info.size_bytes)
		return (zp_explain(why, EINVAL, "volume %s has %llu bytes, %llu would cut data off: volumes only grow", name,
		    (u_longlong_t)info.size_bytes, (u_longlong_t)size));
	if (info.reserved_bytes != 0) {
		error = reserve(name, size, info.block_size_bytes, why);
		if (error != 0)
			return (error);
	}
	if (volume == NULL) {
		error = dmu_objset_own(name, DMU_OST_ZVOL, B_FALSE, B_FALSE, FTAG, &os);
		if (error != 0)
			return (zp_explain(why, error, "cannot open volume %s: %s", name, strerror(error)));
	}
	dmu_tx_t *tx = dmu_tx_create(os);
	dmu_tx_hold_zap(tx, PROPERTY_OBJECT, TRUE, NULL);
	error = dmu_tx_assign(tx, DMU_TX_WAIT);
	if (error != 0) {
		dmu_tx_abort(tx);
	} else {
		error = zap_update(os, PROPERTY_OBJECT, "size", 8, 1, &size, tx);
		dmu_tx_commit(tx);
		txg_wait_synced(dmu_objset_pool(os), 0);
	}
	if (volume == NULL)
		dmu_objset_disown(os, B_FALSE, FTAG);
	else if (error == 0)
		__atomic_store_n(&volume->size, size, __ATOMIC_RELEASE);
	if (error != 0)
		return (zp_explain(why, error, "cannot resize volume %s: %s", name, strerror(error)));
	return (0);
}

static int
look_at_layout(objset_t *os, struct zp_volume_info *info, struct zp_why *why)
{
	dsl_dataset_t *ds = dmu_objset_ds(os);
	dmu_object_info_t data;
	uint64_t number;
	int error = zap_lookup(os, PROPERTY_OBJECT, "size", 8, 1, &info->size_bytes);

	if (error == 0)
		error = dmu_object_info(os, DATA_OBJECT, &data);
	if (error != 0)
		return (zp_explain(why, error, "cannot read the layout of volume %s: %s", info->name, strerror(error)));
	info->block_size_bytes = data.doi_data_block_size;
	info->reserved_bytes = ds->ds_reserved;
	info->used_bytes = dsl_dir_phys(ds->ds_dir)->dd_used_bytes;
	info->referenced_bytes = dsl_dataset_phys(ds)->ds_referenced_bytes;
	const char *compression = "?";
	if (dsl_prop_get_int_ds(ds, zfs_prop_to_name(ZFS_PROP_COMPRESSION), &number) == 0)
		(void) zfs_prop_index_to_string(ZFS_PROP_COMPRESSION, number, &compression);
	(void) snprintf(info->compression, sizeof (info->compression), "%s", compression);
	return (0);
}

int
zp_volume_look(const char *name, struct zp_volume_info *info, struct zp_why *why)
{
	objset_t *os;

	memset(info, 0, sizeof (*info));
	(void) snprintf(info->name, sizeof (info->name), "%s", name);
	int error = dmu_objset_hold(name, FTAG, &os);
	if (error != 0)
		return (zp_explain(why, error, "cannot look at volume %s: %s", name, strerror(error)));
	if (dmu_objset_type(os) != DMU_OST_ZVOL) {
		error = zp_explain(why, ENOTBLK, "%s is no volume", name);
	} else {
		dsl_dataset_t *ds = dmu_objset_ds(os);
		info->guid = dsl_dataset_phys(ds)->ds_guid;
		info->log_is_live = !ds->ds_is_snapshot && !BP_IS_HOLE(&dmu_objset_zil(os)->zl_header->zh_log);
		error = look_at_layout(os, info, why);
	}
	dmu_objset_rele(os, FTAG);
	return (error);
}

struct each {
	int (*found)(void *context, const char *name);
	void *context;
	const char *pool;
};

static int
each_dataset(const char *name, void *opaque)
{
	struct each *each = opaque;
	if (strcmp(name, each->pool) == 0)
		return (0);
	return (each->found(each->context, name));
}

int
zp_volumes_each(zp_pool *pool, int (*found)(void *context, const char *name), void *context)
{
	struct each each = { found, context, pool->name };
	return (dmu_objset_find(pool->name, each_dataset, &each, DS_FIND_CHILDREN | DS_FIND_SNAPSHOTS));
}

/* ---- the log: what a commit asks for, and its replay */

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
 * dropped log.  So the second one ends the process, with the log still on the legs.
 */
static int
replay_result(zp_volume *volume, uint64_t seq, int error)
{
	if (error != 0 && volume->failed_replay_seq == seq)
		zp_die("rule 7: record %llu of the log of volume %s cannot be replayed: %s. The log is kept; this process ends.",
		    (u_longlong_t)seq, volume->name, strerror(error));
	if (error != 0)
		volume->failed_replay_seq = seq;
	else
		volume->replayed_count++;
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
	return (replay_result(volume, lr->lr_common.lrc_seq, error));
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
	return (replay_result(volume, lr->lr_common.lrc_seq, error));
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
		zfs_rangelock_fini(&volume->ranges);
		free(volume);
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

void
zp_volume_close(zp_volume *volume)
{
	zil_close(volume->zilog);
	dnode_rele(volume->data, volume);
	txg_wait_synced(dmu_objset_pool(volume->os), 0);
	dmu_objset_disown(volume->os, B_FALSE, volume);
	zfs_rangelock_fini(&volume->ranges);
	free(volume);
}

uint64_t
zp_volume_size(const zp_volume *volume)
{
	return (__atomic_load_n(&volume->size, __ATOMIC_ACQUIRE));
}

uint64_t
zp_volume_direct_bytes(const zp_volume *volume)
{
	return (__atomic_load_n(&volume->direct_bytes, __ATOMIC_RELAXED));
}

uint64_t
zp_volume_sequence(const zp_volume *volume)
{
	return (__atomic_load_n(&volume->sequence, __ATOMIC_RELAXED));
}

/* ---- data */

/* Walks iovecs: where the next bytes come from or go to. */
struct cursor {
	const struct iovec *iov;
	size_t used;
};

static void *
next_piece(struct cursor *cursor, uint64_t most, uint64_t *size)
{
	while (cursor->used == cursor->iov->iov_len) {
		cursor->iov++;
		cursor->used = 0;
	}
	char *piece = (char *)cursor->iov->iov_base + cursor->used;
	*size = MIN(most, cursor->iov->iov_len - cursor->used);
	cursor->used += *size;
	return (piece);
}

/* A read under way: holds its blocks and its range. */
struct reading {
	zp_read_done *done;
	void *context, *request;
	struct cursor into;
	uint64_t offset, size;
	zfs_locked_range_t *range;
	int error;
	uint64_t count;
	dmu_buf_impl_t *blocks[];
};

/* Every block has arrived, or none will any more.  On the thread of the last one; it must not wait here. */
static void
read_arrived(zio_t *zio)
{
	struct reading *read = zio->io_private;
	int error = zio->io_error != 0 ? zio->io_error : read->error;

	for (uint64_t i = 0; i < read->count; i++) {
		dmu_buf_impl_t *block = read->blocks[i];
		if (error == 0 && block->db_state != DB_CACHED)
			error = SET_ERROR(EIO);
		uint64_t skip = read->offset - block->db.db_offset;
		for (uint64_t left = MIN(read->size, block->db.db_size - skip); error == 0 && left > 0; ) {
			uint64_t piece_size;
			void *piece = next_piece(&read->into, left, &piece_size);
			memcpy(piece, (char *)block->db.db_data + skip, piece_size);
			skip += piece_size;
			left -= piece_size;
			read->offset += piece_size;
			read->size -= piece_size;
		}
		dbuf_rele(block, read);
	}
	zfs_rangelock_exit(read->range);
	read->done(read->context, read->request, error);
	free(read);
}

/*
 * Hands the read over to OpenZFS and returns; waits itself only for what stands in the way: the range, a block of block
 * pointers, a block that somebody else is reading.
 */
void
zp_volume_read(zp_volume *volume, const struct iovec *iov, uint64_t offset, uint64_t size, zp_read_done *done, void *context,
    void *request)
{
	dnode_t *data = volume->data;
	uint64_t first = offset / volume->block_size, count = (offset + size - 1) / volume->block_size - first + 1;
	struct reading *read = malloc(sizeof (*read) + count * sizeof (read->blocks[0]));
	boolean_t missed = B_FALSE;

	*read = (struct reading) { .done = done, .context = context, .request = request, .into = { iov, 0 }, .offset = offset, .size = size };
	read->range = zfs_rangelock_enter(&volume->ranges, offset, size, RL_READER);
	zio_t *arrival = zio_root(volume->os->os_spa, read_arrived, read, ZIO_FLAG_CANFAIL);
	arrival->io_type = ZIO_TYPE_READ;	/* so the last block's thread goes on with it, instead of waking another */
	rw_enter(&data->dn_struct_rwlock, RW_READER);
	zstream_t *stream = dmu_zfetch_prepare(&data->dn_zfetch, first, count, B_TRUE, B_TRUE);
	for (; read->count < count; read->count++) {
		read->blocks[read->count] = dbuf_hold(data, first + read->count, read);
		if (read->blocks[read->count] == NULL) {
			read->error = SET_ERROR(EIO);
			break;
		}
	}
	rw_exit(&data->dn_struct_rwlock);
	for (uint64_t i = 0; i < read->count && read->error == 0; i++) {
		read->error = dbuf_read(read->blocks[i], arrival, DB_RF_CANFAIL | DB_RF_NOPREFETCH);
		missed |= read->blocks[i]->db_state != DB_CACHED;
	}
	if (stream != NULL)
		dmu_zfetch_run(&data->dn_zfetch, stream, missed, B_FALSE);
	zio_nowait(arrival);
}

/* ---- which blocks are there */

struct extents {
	struct zp_extent *into;
	int capacity, count;
};

static boolean_t
add_extent(struct extents *extents, uint64_t size, int is_hole)
{
	struct zp_extent *last = extents->count > 0 ? &extents->into[extents->count - 1] : NULL;

	if (last != NULL && last->is_hole == is_hole) {
		last->size_bytes += size;
		return (B_TRUE);
	}
	if (extents->count == extents->capacity)
		return (B_FALSE);
	extents->into[extents->count++] = (struct zp_extent) { size, is_hole };
	return (B_TRUE);
}

/* Marks the blocks from `first` on that are changed in a txg which has not synced. */
static void
mark_dirty(dnode_t *data, uint64_t first, uint64_t count, uint8_t *is_data)
{
	dmu_buf_impl_t from = { .db_level = 0, .db_blkid = first, .db_state = DB_SEARCH };
	avl_index_t where;

	mutex_enter(&data->dn_dbufs_mtx);
	VERIFY3P(avl_find(&data->dn_dbufs, &from, &where), ==, NULL);
	for (dmu_buf_impl_t *block = avl_nearest(&data->dn_dbufs, where, AVL_AFTER);
	    block != NULL && block->db_level == 0 && block->db_blkid < first + count; block = AVL_NEXT(&data->dn_dbufs, block)) {
		mutex_enter(&block->db_mtx);
		if (block->db_dirtycnt > 0)
			is_data[block->db_blkid - first] = 1;
		mutex_exit(&block->db_mtx);
	}
	mutex_exit(&data->dn_dbufs_mtx);
}

/*
 * Marks the blocks from `first` on that a block pointer names; all of them lie below one indirect block of level 1.  Of a block that is
 * not dirty, with its range held, the pointer in memory is the one that counts: nobody changes it.
 */
static int
mark_allocated(dnode_t *data, uint64_t first, uint64_t count, uint8_t *is_data)
{
	int pointers_shift = data->dn_indblkshift - SPA_BLKPTRSHIFT;
	dmu_buf_impl_t *indirect;

	if (data->dn_nlevels == 1 || data->dn_phys->dn_nlevels != data->dn_nlevels) {
		/* No level 1, or a new one, which has not taken over what the dnode points to: all that may be there. */
		for (uint64_t i = 0; i < count && first + i <= data->dn_maxblkid; i++)
			is_data[i] = 1;
		return (0);
	}
	int error = dbuf_hold_impl(data, 1, first >> pointers_shift, B_TRUE, B_FALSE, FTAG, &indirect);
	if (error == ENOENT)
		return (0);
	if (error != 0)
		return (error);
	error = dbuf_read(indirect, NULL, DB_RF_HAVESTRUCT | DB_RF_CANFAIL | DB_RF_NOPREFETCH);
	if (error == 0) {
		const blkptr_t *pointers = indirect->db.db_data;
		uint64_t skip = first & ((1ULL << pointers_shift) - 1);
		rw_enter(&indirect->db_rwlock, RW_READER);
		for (uint64_t i = 0; i < count; i++) {
			if (!BP_IS_HOLE(&pointers[skip + i]))
				is_data[i] = 1;
		}
		rw_exit(&indirect->db_rwlock);
	}
	dbuf_rele(indirect, FTAG);
	return (error);
}

/* OpenZFS's own search for holes reads what has synced, and waits for a txg each time when anything has not. */
int
zp_volume_extents(zp_volume *volume, uint64_t offset, uint64_t size, struct zp_extent *extents, int capacity, int *count)
{
	dnode_t *data = volume->data;
	uint64_t block_size = volume->block_size, end = offset + size;
	uint64_t pointers = 1ULL << (data->dn_indblkshift - SPA_BLKPTRSHIFT);
	uint8_t *is_data = malloc(pointers);
	struct extents found = { extents, capacity, 0 };
	boolean_t room = B_TRUE;
	int error = 0;

	while (offset < end && room && error == 0) {
		uint64_t first = offset / block_size;
		uint64_t blocks = MIN(pointers - first % pointers, (end - 1) / block_size - first + 1);
		memset(is_data, 0, blocks);
		zfs_locked_range_t *range = zfs_rangelock_enter(&volume->ranges, first * block_size, blocks * block_size, RL_READER);
		rw_enter(&data->dn_struct_rwlock, RW_READER);
		mark_dirty(data, first, blocks, is_data);	/* first: what syncs meanwhile is in its indirect block then */
		error = mark_allocated(data, first, blocks, is_data);
		rw_exit(&data->dn_struct_rwlock);
		zfs_rangelock_exit(range);
		for (uint64_t i = 0; i < blocks && room && error == 0; i++) {
			uint64_t part = MIN((first + i + 1) * block_size, end) - offset;
			room = add_extent(&found, part, !is_data[i]);
			offset += room ? part : 0;
		}
	}
	free(is_data);
	*count = found.count;
	return (error);
}

/*
 * Large writes by reference: the data goes to its final place before the commit, instead of into the log and there later.  It
 * costs a command for each block, so not for small blocks.
 */
static boolean_t
by_reference(const zp_volume *volume, uint64_t size)
{
	const zilog_t *zilog = volume->zilog;

	return (size >= volume->block_size && (zilog->zl_logbias == ZFS_LOGBIAS_THROUGHPUT ||
	    (size >= REFERENCE_LEAST && volume->block_size >= REFERENCE_LEAST_BLOCK && !spa_has_slogs(zilog->zl_spa))));
}

static void
note_write(zp_volume *volume, dmu_tx_t *tx, struct cursor from, uint64_t offset, uint64_t size)
{
	zilog_t *zilog = volume->zilog;
	uint64_t block_size = volume->block_size;
	boolean_t refer = by_reference(volume, size);
	uint64_t logged = 0;

	while (size > 0) {
		itx_wr_state_t state = WR_COPIED;
		uint64_t length = size;
		if (refer) {
			length = MIN(block_size - P2PHASE_TYPED(offset, block_size, uint64_t), size);
			state = length == block_size ? WR_INDIRECT : WR_NEED_COPY;
		} else if (size > zil_max_copied_data(zilog)) {
			state = WR_NEED_COPY;
		}
		itx_t *itx = zil_itx_create(TX_WRITE, sizeof (lr_write_t) + (state == WR_COPIED ? length : 0));
		lr_write_t *lr = (lr_write_t *)&itx->itx_lr;
		char *into = (char *)(lr + 1);
		for (uint64_t left = length; left > 0; ) {
			uint64_t piece_size;
			const void *piece = next_piece(&from, left, &piece_size);
			if (state == WR_COPIED) {
				memcpy(into, piece, piece_size);
				into += piece_size;
			}
			left -= piece_size;
		}
		itx->itx_wr_state = state;
		itx->itx_private = volume;
		itx->itx_sync = B_TRUE;
		lr->lr_foid = DATA_OBJECT;
		lr->lr_offset = offset;
		lr->lr_length = length;
		lr->lr_blkoff = 0;
		BP_ZERO(&lr->lr_blkptr);
		zil_itx_assign(zilog, itx, tx);
		if (state != WR_INDIRECT)
			logged += length;
		offset += length;
		size -= length;
	}
	if (logged > 0)
		dsl_pool_wrlog_count(zilog->zl_dmu_pool, logged, tx->tx_txg);	/* pushes a txg when the log gets long */
}

/*
 * What a batch's commit proves, for the floor: its newest record is of txg newest_txg and has a sequence above log_before.  An
 * import either begins at that txg or later, or finds a record above log_before in the claimed log.
 */
void
zp_batch_begin(zp_volume *volume, struct zp_batch *batch)
{
	batch->newest_txg = 0;
	batch->log_before = __atomic_load_n(&volume->zilog->zl_lr_seq, __ATOMIC_RELAXED);
}

/*
 * A write of a part of a block waits for the rest of the block: so that the writes of a batch wait together and not one after
 * the other, the reads of all of them start first.
 */
void
zp_volume_prefetch(zp_volume *volume, uint64_t offset, uint64_t size)
{
	uint64_t end = offset + size, last = P2ALIGN_TYPED(end - 1, volume->block_size, uint64_t);

	if (P2PHASE(offset, volume->block_size) != 0 || size < volume->block_size)
		dmu_prefetch_by_dnode(volume->data, 0, offset, 1, ZIO_PRIORITY_SYNC_READ);
	if (last > offset && P2PHASE(end, volume->block_size) != 0)
		dmu_prefetch_by_dnode(volume->data, 0, last, 1, ZIO_PRIORITY_SYNC_READ);
}

int zp_direct_writes = 1;

/*
 * Direct writes take space at once and give none back before their txg has synced: what is not synced yet counts.  OpenZFS 2.3.2
 * uses freed memory when it finds no place for such a write, so space must not get short.
 */
static boolean_t
has_space_for_direct(zp_volume *volume, uint64_t size, uint64_t txg)
{
	zp_pool *pool = volume->pool;
	metaslab_class_t *class = spa_normal_class(pool->spa);
	uint64_t space = metaslab_class_get_space(class), taken = metaslab_class_get_alloc(class);
	uint64_t synced = spa_last_synced_txg(pool->spa), slot = txg & TXG_MASK, former = pool->direct_txg[slot];

	if (former != txg && atomic_cas_64(&pool->direct_txg[slot], former, txg) == former)
		(void) atomic_swap_64(&pool->direct_bytes[slot], 0);
	taken += atomic_add_64_nv(&pool->direct_bytes[slot], size);
	for (int i = 0; i < TXG_SIZE; i++) {
		if (i != (int)slot && pool->direct_txg[i] > synced)
			taken += pool->direct_bytes[i];
	}
	return (taken + space / DIRECT_LEAST_FREE <= space);
}

/*
 * Whole blocks, handed to the legs from the client's buffer in this transaction: no copy into the cache, and the record has the
 * place to refer to.  Not blocks that were freed in a txg that has not synced: OpenZFS 2.3.2 would read them as zeroes until it
 * has (mended upstream by 1644e2ffd2).  The caller holds the range: nobody frees them meanwhile.
 */
static boolean_t
may_write_past_cache(zp_volume *volume, uint64_t offset, uint64_t size, dmu_tx_t *tx)
{
	for (uint64_t at = offset; at < offset + size; at += volume->block_size) {
		if (dnode_block_freed(volume->data, at / volume->block_size) && !zp_mutated(ZP_DIRECT_OVER_FREED))
			return (B_FALSE);
	}
	return (has_space_for_direct(volume, size, dmu_tx_get_txg(tx)));
}

static int
write_past_cache(zp_volume *volume, uint64_t offset, uint64_t size, void *piece, dmu_tx_t *tx)
{
	abd_t *data = abd_get_from_buf(piece, size);
	int error = dmu_write_abd(volume->data, offset, size, data, DMU_DIRECTIO, tx);
	abd_free(data);
	if (error == 0)
		(void) atomic_add_64_nv(&volume->direct_bytes, size);
	return (error);
}

/* A piece of the client's memory: its whole blocks past the cache if `direct`, what is left through it. */
static int
write_piece(zp_volume *volume, uint64_t offset, uint64_t size, char *piece, boolean_t direct, dmu_tx_t *tx)
{
	uint64_t first = P2ROUNDUP_TYPED(offset, volume->block_size, uint64_t);
	uint64_t end = P2ALIGN_TYPED(offset + size, volume->block_size, uint64_t);
	int error = 0;

	if (!direct || end <= first || !may_write_past_cache(volume, first, end - first, tx) ||
	    write_past_cache(volume, first, end - first, piece + (first - offset), tx) != 0)
		return (dmu_write_by_dnode(volume->data, offset, size, piece, tx));
	if (first > offset)
		error = dmu_write_by_dnode(volume->data, offset, first - offset, piece, tx);
	if (error == 0 && offset + size > end)
		error = dmu_write_by_dnode(volume->data, end, offset + size - end, piece + (end - offset), tx);
	return (error);
}

int
zp_volume_write(zp_volume *volume, struct zp_batch *batch, const struct iovec *iov, uint64_t offset, uint64_t size)
{
	struct cursor cursor = { iov, 0 };
	int error = 0;

	zfs_locked_range_t *range = zfs_rangelock_enter(&volume->ranges, offset, size, RL_WRITER);
	int retries = 0;
	while (size > 0 && error == 0) {
		uint64_t part = MIN(size, retries == 0 ? WRITE_MOST : WRITE_LEAST);
		dmu_tx_t *tx = dmu_tx_create(volume->os);
		dmu_tx_hold_write_by_dnode(tx, volume->data, offset, part);
		error = dmu_tx_assign(tx, DMU_TX_WAIT);
		if (error != 0) {
			dmu_tx_abort(tx);
			/*
			 * OpenZFS reckons what is in flight at several times its size, which may exceed what is left of a thick
			 * volume's reservation in a full pool: once synced it counts as what it is.
			 */
			if (error == ENOSPC && dmu_objset_ds(volume->os)->ds_reserved != 0 && retries++ < 3) {
				txg_wait_synced(dmu_objset_pool(volume->os), 0);
				error = 0;
				continue;
			}
			break;
		}
		retries = MIN(retries, 1);
		struct cursor from = cursor;
		boolean_t direct = zp_direct_writes != 0 && by_reference(volume, part);
		for (uint64_t at = offset, left = part; left > 0 && error == 0; ) {
			uint64_t piece_size;
			char *piece = next_piece(&cursor, left, &piece_size);
			error = write_piece(volume, at, piece_size, piece, direct, tx);
			at += piece_size;
			left -= piece_size;
		}
		if (error == 0)
			note_write(volume, tx, from, offset, part);
		batch->newest_txg = MAX(batch->newest_txg, dmu_tx_get_txg(tx));
		dmu_tx_commit(tx);
		offset += part;
		size -= part;
	}
	zfs_rangelock_exit(range);
	return (error);
}

/*
 * Freed first, noted then (the kernel's zvol does it the other way round): a record counts as done once its txg has synced, so
 * nothing of the free may be in a later one.
 */
int
zp_volume_free(zp_volume *volume, struct zp_batch *batch, uint64_t offset, uint64_t size)
{
	zfs_locked_range_t *range = zfs_rangelock_enter(&volume->ranges, offset, size, RL_WRITER);
	int error = dmu_free_long_range(volume->os, DATA_OBJECT, offset, size);
	if (error == 0) {
		dmu_tx_t *tx = dmu_tx_create(volume->os);
		dmu_tx_mark_netfree(tx);
		error = dmu_tx_assign(tx, DMU_TX_WAIT);
		if (error != 0) {
			dmu_tx_abort(tx);
		} else {
			itx_t *itx = zil_itx_create(TX_TRUNCATE, sizeof (lr_truncate_t));
			lr_truncate_t *lr = (lr_truncate_t *)&itx->itx_lr;
			lr->lr_foid = DATA_OBJECT;
			lr->lr_offset = offset;
			lr->lr_length = size;
			itx->itx_sync = B_TRUE;
			zil_itx_assign(volume->zilog, itx, tx);
			batch->newest_txg = MAX(batch->newest_txg, dmu_tx_get_txg(tx));
			dmu_tx_commit(tx);
		}
	}
	zfs_rangelock_exit(range);
	return (error);
}

void
zp_batch_commit(zp_volume *volume, struct zp_batch *batch)
{
	if (volume->zilog->zl_sync != ZFS_SYNC_ALWAYS)
		zp_die("rule 2: volume %s has no sync=always any more", volume->name);
	if (!zp_mutated(ZP_COMMIT_SKIPPED))
		zil_commit(volume->zilog, DATA_OBJECT);
	if (batch->newest_txg == 0)
		return;
	uint64_t sequence = batch->newest_txg << 32 | (uint32_t)(batch->log_before + 1);
	uint64_t seen = __atomic_load_n(&volume->sequence, __ATOMIC_RELAXED);
	while (sequence > seen &&
	    !__atomic_compare_exchange_n(&volume->sequence, &seen, sequence, B_TRUE, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		continue;
}
