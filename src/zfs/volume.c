/*
 * The embedded OpenZFS: an open volume's data.  What zp_volume_write() did is in memory and in the list of log records;
 * zp_batch_commit() makes it durable: it returns when the log blocks are written and flushed on every leg of the ack set (the gate
 * and the driver see to it).
 */
#include "zfs/zfs_internal.h"

#define	WRITE_MOST	(1ULL << 20)	/* bytes in one transaction */
#define	WRITE_LEAST	(128ULL << 10)	/* the same, when space is short */
#define	REFERENCE_LEAST	(64ULL << 10)
#define	REFERENCE_LEAST_BLOCK	(16ULL << 10)
#define	DIRECT_LEAST_FREE	16		/* direct writes while 1 / 16 of the pool is free */
#define	DIRECT_READ_LEAST	(128ULL << 10)
#define	INDIRECT_READS_MOST	16	/* for one look at extents: it occupies a thread while it waits */

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

/* A read under way: holds its blocks and its range.  A block that is NULL arrives in the client's memory by itself. */
struct reading {
	zp_read_done *done;
	void *context, *request;
	struct cursor into;
	uint64_t offset, size, block_size;
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
		if (error == 0 && block != NULL && block->db_state != DB_CACHED)
			error = SET_ERROR(EIO);
		uint64_t skip = P2PHASE_TYPED(read->offset, read->block_size, uint64_t);
		for (uint64_t left = MIN(read->size, read->block_size - skip); error == 0 && left > 0; ) {
			uint64_t piece_size;
			void *piece = next_piece(&read->into, left, &piece_size);
			if (block != NULL)
				memcpy(piece, (char *)block->db.db_data + skip, piece_size);
			skip += piece_size;
			left -= piece_size;
			read->offset += piece_size;
			read->size -= piece_size;
		}
		if (block != NULL)
			dbuf_rele(block, read);
	}
	zfs_rangelock_exit(read->range);
	read->done(read->context, read->request, error);
	free(read);
}

int zp_direct_reads = 1;

static void
arrived_past_cache(zio_t *zio)
{
	abd_free(zio->io_abd);
}

/*
 * A whole block that no cache holds, from a leg into the client's memory, with its checksum verified and healed from the other leg as
 * any.  Not what was freed in a txg that has not synced, since its pointer still leads to what was there before: asked first, because
 * the sync of such a txg clears the pointer before it forgets the free, and once nothing is freed nobody changes the pointer while
 * the range is held.  Nor what is dirty, but for the place that write_past_cache() gave it.
 */
static boolean_t
read_past_cache(zp_volume *volume, dmu_buf_impl_t *block, void *into, zio_t *arrival)
{
	spa_t *spa = volume->os->os_spa;
	zio_t *zio = NULL;

	mutex_enter(&block->db_mtx);
	boolean_t freed = dnode_block_freed(volume->data, block->db_blkid);
	const dbuf_dirty_record_t *dirty = list_head(&block->db_dirty_records);
	const blkptr_t *place = dirty == NULL ? block->db_blkptr : dirty->dt.dl.dr_diowrite &&
	    dirty->dt.dl.dr_override_state == DR_OVERRIDDEN ? &dirty->dt.dl.dr_overridden_by : NULL;
	if (!freed && block->db_state == DB_UNCACHED && place != NULL && !BP_IS_HOLE(place) &&
	    BP_GET_LSIZE(place) == block->db.db_size && arc_cached(spa, place) == 0) {
		zbookmark_phys_t mark;
		SET_BOOKMARK(&mark, dmu_objset_ds(volume->os)->ds_object, DATA_OBJECT, 0, block->db_blkid);
		zio = zio_read(arrival, spa, place, abd_get_from_buf(into, block->db.db_size), block->db.db_size,
		    arrived_past_cache, NULL, ZIO_PRIORITY_SYNC_READ, ZIO_FLAG_CANFAIL, &mark);
	}
	mutex_exit(&block->db_mtx);
	if (zio == NULL)
		return (B_FALSE);
	(void) atomic_add_64_nv(&volume->direct_read_bytes, block->db.db_size);
	zio_nowait(zio);
	return (B_TRUE);
}

/* The memory that the read's next block goes to if it is whole and in one piece, else NULL; the cursor moves on. */
static void *
place_of_block(struct cursor *cursor, uint64_t *offset, uint64_t *left, uint64_t block_size)
{
	uint64_t want = MIN(*left, block_size - P2PHASE_TYPED(*offset, block_size, uint64_t)), piece_size;
	void *piece = next_piece(cursor, want, &piece_size);
	boolean_t whole = want == block_size && piece_size == block_size;

	for (uint64_t done = piece_size; done < want; done += piece_size)
		(void) next_piece(cursor, want - done, &piece_size);
	*offset += want;
	*left -= want;
	return (whole ? piece : NULL);
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
	boolean_t missed = B_FALSE, direct = zp_direct_reads != 0 && size >= DIRECT_READ_LEAST;
	struct cursor into = { iov, 0 };

	*read = (struct reading) { .done = done, .context = context, .request = request, .into = into, .offset = offset, .size = size,
	    .block_size = volume->block_size };
	read->range = zfs_rangelock_enter(&volume->ranges, offset, size, RL_READER);
	zio_t *arrival = zio_root(volume->os->os_spa, read_arrived, read, ZIO_FLAG_CANFAIL);
	arrival->io_type = ZIO_TYPE_READ;	/* so the last block's thread goes on with it, instead of waking another */
	rw_enter(&data->dn_struct_rwlock, RW_READER);
	zstream_t *stream = direct ? NULL : dmu_zfetch_prepare(&data->dn_zfetch, first, count, B_TRUE, B_TRUE);
	for (; read->count < count; read->count++) {
		read->blocks[read->count] = dbuf_hold(data, first + read->count, read);
		if (read->blocks[read->count] == NULL) {
			read->error = SET_ERROR(EIO);
			break;
		}
	}
	rw_exit(&data->dn_struct_rwlock);
	for (uint64_t i = 0; i < read->count && read->error == 0; i++) {
		void *place = direct ? place_of_block(&into, &offset, &size, volume->block_size) : NULL;
		if (place != NULL && read_past_cache(volume, read->blocks[i], place, arrival)) {
			dbuf_rele(read->blocks[i], read);
			read->blocks[i] = NULL;
			continue;
		}
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
add_extent(struct extents *extents, struct zp_extent next)
{
	struct zp_extent *last = extents->count > 0 ? &extents->into[extents->count - 1] : NULL;

	if (last != NULL && last->is_hole == next.is_hole) {
		last->size_bytes += next.size_bytes;
		return (B_TRUE);
	}
	if (extents->count == extents->capacity)
		return (B_FALSE);
	extents->into[extents->count++] = next;
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
 * not dirty, with its range held, the pointer in memory is the one that counts: only the sync of an earlier trim may still clear it,
 * and either answer is right then.
 */
static int
mark_allocated(dnode_t *data, uint64_t first, uint64_t count, uint8_t *is_data, int *read_count)
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
	*read_count += indirect->db_state != DB_CACHED;
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
	int error = 0, read_count = 0;

	while (offset < end && room && error == 0 && read_count < INDIRECT_READS_MOST) {
		uint64_t first = offset / block_size;
		uint64_t blocks = MIN(pointers - first % pointers, (end - 1) / block_size - first + 1);
		memset(is_data, 0, blocks);
		zfs_locked_range_t *range = zfs_rangelock_enter(&volume->ranges, first * block_size, blocks * block_size, RL_READER);
		rw_enter(&data->dn_struct_rwlock, RW_READER);
		mark_dirty(data, first, blocks, is_data);	/* first: what syncs meanwhile is in its indirect block then */
		error = mark_allocated(data, first, blocks, is_data, &read_count);
		rw_exit(&data->dn_struct_rwlock);
		zfs_rangelock_exit(range);
		for (uint64_t i = 0; i < blocks && room && error == 0; i++) {
			uint64_t part = MIN((first + i + 1) * block_size, end) - offset;
			room = add_extent(&found, (struct zp_extent) { part, !is_data[i] });
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
