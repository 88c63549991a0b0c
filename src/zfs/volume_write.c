/*
 * The embedded OpenZFS: what is written to an open volume.  What zp_volume_write() did is in memory and in the list of log records, or
 * about to be (partial_write.c); zp_batch_commit() makes it durable: it returns when the log blocks are written and flushed on every
 * leg of the ack set (the gate and the driver see to it).
 *
 * A write holds whole blocks: two that change one block at a time could do so in the reverse order of their txgs, for which a block's
 * list of changes is not made.
 */
#include "zfs/zfs_internal.h"

#define	WRITE_MOST	(1ULL << 20)	/* bytes in one transaction */
#define	WRITE_LEAST	(128ULL << 10)	/* the same, when space is short */
#define	REFERENCE_LEAST	(64ULL << 10)
#define	REFERENCE_LEAST_BLOCK	(16ULL << 10)
#define	COPIED_PART_MOST	(32ULL << 10)	/* of a block */
#define	DIRECT_LEAST_FREE	16		/* direct writes while 1 / 16 of the pool is free */

static zfs_locked_range_t *
enter_blocks(zp_volume *volume, struct zp_batch *batch, uint64_t offset, uint64_t size)
{
	uint64_t begin = P2ALIGN_TYPED(offset, volume->block_size, uint64_t);
	uint64_t length = P2ROUNDUP_TYPED(offset + size, volume->block_size, uint64_t) - begin;
	zfs_locked_range_t *range = zfs_rangelock_tryenter(&volume->ranges, begin, length, RL_WRITER);

	if (range != NULL)
		return (range);
	zp_partial_note(volume, batch);	/* its ranges are given up without us then */
	return (zfs_rangelock_enter(&volume->ranges, begin, length, RL_WRITER));
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

/* Whether the bytes go into the record at once; else they are looked up when the log is written. */
boolean_t
zp_is_copied_to_log(const zp_volume *volume, uint64_t size)
{
	return (!by_reference(volume, size) &&
	    size <= (size < volume->block_size ? COPIED_PART_MOST : zil_max_copied_data(volume->zilog)));
}

void
zp_note_write(zp_volume *volume, dmu_tx_t *tx, struct zp_cursor from, uint64_t offset, uint64_t size)
{
	zilog_t *zilog = volume->zilog;
	uint64_t block_size = volume->block_size;
	boolean_t refer = by_reference(volume, size), copied = zp_is_copied_to_log(volume, size);
	uint64_t logged = 0;

	while (size > 0) {
		itx_wr_state_t state = copied ? WR_COPIED : WR_NEED_COPY;
		uint64_t length = size;
		if (refer) {
			length = MIN(block_size - P2PHASE_TYPED(offset, block_size, uint64_t), size);
			state = length == block_size ? WR_INDIRECT : WR_NEED_COPY;
		}
		itx_t *itx = zil_itx_create(TX_WRITE, sizeof (lr_write_t) + (state == WR_COPIED ? length : 0));
		lr_write_t *lr = (lr_write_t *)&itx->itx_lr;
		char *into = (char *)(lr + 1);
		for (uint64_t left = length; left > 0; ) {
			uint64_t piece_size;
			const void *piece = zp_next_piece(&from, left, &piece_size);
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
	*batch = (struct zp_batch) { .newest_txg = 0 };
	batch->log_before = __atomic_load_n(&volume->zilog->zl_lr_seq, __ATOMIC_RELAXED);
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

/* The caller holds the blocks. */
int
zp_write_now(zp_volume *volume, struct zp_batch *batch, const struct iovec *iov, uint64_t offset, uint64_t size)
{
	struct zp_cursor cursor = { iov, 0 };
	int error = 0, retries = 0;

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
		struct zp_cursor from = cursor;
		boolean_t direct = zp_direct_writes != 0 && by_reference(volume, part);
		for (uint64_t at = offset, left = part; left > 0 && error == 0; ) {
			uint64_t piece_size;
			char *piece = zp_next_piece(&cursor, left, &piece_size);
			error = write_piece(volume, at, piece_size, piece, direct, tx);
			at += piece_size;
			left -= piece_size;
		}
		if (error == 0)
			zp_note_write(volume, tx, from, offset, part);
		batch->newest_txg = MAX(batch->newest_txg, dmu_tx_get_txg(tx));
		dmu_tx_commit(tx);
		offset += part;
		size -= part;
	}
	return (error);
}

void
zp_volume_write(zp_volume *volume, struct zp_batch *batch, const struct iovec *iov, uint64_t offset, uint64_t size, int *error)
{
	zfs_locked_range_t *range = enter_blocks(volume, batch, offset, size);

	*error = 0;
	if (zp_partial_take(volume, batch, iov, offset, size, error, range))
		return;
	*error = zp_write_now(volume, batch, iov, offset, size);
	zfs_rangelock_exit(range);
}

/*
 * Freed first, noted then (the kernel's zvol does it the other way round): a record counts as done once its txg has synced, so
 * nothing of the free may be in a later one.
 */
int
zp_volume_free(zp_volume *volume, struct zp_batch *batch, uint64_t offset, uint64_t size)
{
	zfs_locked_range_t *range = enter_blocks(volume, batch, offset, size);
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
	zp_partial_note(volume, batch);
	do {
		if (!zp_mutated(ZP_COMMIT_SKIPPED))
			zil_commit(volume->zilog, DATA_OBJECT);
	} while (zp_partial_wait(volume, batch));
	if (batch->newest_txg == 0)
		return;
	uint64_t sequence = batch->newest_txg << 32 | (uint32_t)(batch->log_before + 1);
	uint64_t seen = __atomic_load_n(&volume->sequence, __ATOMIC_RELAXED);
	while (sequence > seen &&
	    !__atomic_compare_exchange_n(&volume->sequence, &seen, sequence, B_TRUE, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		continue;
}
