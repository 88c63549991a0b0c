/*
 * The embedded OpenZFS: what is read of an open volume, and which of its blocks are there.
 */
#include "zfs/zfs_internal.h"

#define	DIRECT_READ_LEAST	(128ULL << 10)
#define	INDIRECT_READS_MOST	16	/* for one look at extents: it occupies a thread while it waits */

void *
zp_next_piece(struct zp_cursor *cursor, uint64_t most, uint64_t *size)
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
	struct zp_cursor into;
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
			void *piece = zp_next_piece(&read->into, left, &piece_size);
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
place_of_block(struct zp_cursor *cursor, uint64_t *offset, uint64_t *left, uint64_t block_size)
{
	uint64_t want = MIN(*left, block_size - P2PHASE_TYPED(*offset, block_size, uint64_t)), piece_size;
	void *piece = zp_next_piece(cursor, want, &piece_size);
	boolean_t whole = want == block_size && piece_size == block_size;

	for (uint64_t done = piece_size; done < want; done += piece_size)
		(void) zp_next_piece(cursor, want - done, &piece_size);
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
	struct zp_cursor into = { iov, 0 };

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
