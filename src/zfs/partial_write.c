/*
 * The embedded OpenZFS: a small write to a block of which the rest is not in memory.
 *
 * The record in the log needs the client's bytes only, so the log is written while the rest of the block is read; the write is answered
 * when both are done.  Such writes of a batch share a transaction: the committer notes their records in it, and goes on to the commit.
 * When the blocks have arrived a thread of `fillers` puts the bytes into them, in a transaction of its own: none is open while a read is
 * under way, which a drive, or the driver, may hold for as long as it likes.
 *
 * A record counts until its txg has synced, so it must be of the bytes' own txg.  Mostly it is, since a read takes less than a txg;
 * else the filler notes it again, and the committer commits again before it answers.
 *
 * A block that cannot be read fails its write, whose record may be in the log already: the answer, and whoever wants the range, waits until
 * the record's txg has synced, as the record is void then.  Only a crash before that lets a replay meet it.
 */
#include "zfs/zfs_internal.h"

#define	GROUP_WRITES	32
#define	FILLERS		4

struct partial {
	const struct iovec *iov;
	uint64_t offset, size;
	int *error;
	zfs_locked_range_t *range;
	dmu_buf_impl_t *blocks[2];
	int block_count;
};

struct zp_group {
	struct zp_group *next;		/* in the batch's `unfilled` */
	zp_volume *volume;
	struct zp_batch *batch;
	zio_t *arrival;
	uint64_t txg;			/* of the records */
	int count;
	struct partial writes[GROUP_WRITES];
};

static taskq_t *fillers;

void
zp_partial_install(void)
{
	fillers = taskq_create("zp_fill", FILLERS, minclsyspri, FILLERS, INT_MAX, TASKQ_PREPOPULATE);
}

static void
release_blocks(struct partial *write, const void *holder)
{
	for (int i = 0; i < write->block_count; i++)
		dbuf_rele(write->blocks[i], holder);
	write->block_count = 0;
}

/* Whole blocks: it reads nothing. */
static dmu_tx_t *
assign(const struct zp_group *group, int *error)
{
	uint64_t block_size = group->volume->block_size;
	dmu_tx_t *tx = dmu_tx_create(group->volume->os);

	for (const struct partial *write = group->writes; write < group->writes + group->count; write++) {
		uint64_t begin = P2ALIGN_TYPED(write->offset, block_size, uint64_t);
		uint64_t end = P2ROUNDUP_TYPED(write->offset + write->size, block_size, uint64_t);
		dmu_tx_hold_write_by_dnode(tx, group->volume->data, begin, end - begin);
	}
	*error = dmu_tx_assign(tx, DMU_TX_WAIT);
	if (*error == 0)
		return (tx);
	dmu_tx_abort(tx);
	return (NULL);
}

static int
put_bytes(zp_volume *volume, const struct partial *write, dmu_tx_t *tx)
{
	struct zp_cursor from = { write->iov, 0 };
	int error = 0;

	for (uint64_t done = 0, piece_size; done < write->size && error == 0; done += piece_size) {
		const void *piece = zp_next_piece(&from, write->size - done, &piece_size);
		error = dmu_write_by_dnode(volume->data, write->offset + done, piece_size, piece, tx);
	}
	return (error);
}

static int
fill_one(struct zp_group *group, struct partial *write, dmu_tx_t *tx)
{
	for (int i = 0; i < write->block_count; i++) {
		if (write->blocks[i]->db_state != DB_CACHED)
			return (SET_ERROR(EIO));
	}
	int error = put_bytes(group->volume, write, tx);
	if (error == 0 && dmu_tx_get_txg(tx) != group->txg)
		zp_note_write(group->volume, tx, (struct zp_cursor) { write->iov, 0 }, write->offset, write->size);
	return (error);
}

/* Gives up blocks and ranges: not while the record of a write that failed counts. */
static void
end_group(struct zp_group *group)
{
	boolean_t failed = B_FALSE;

	for (struct partial *write = group->writes; write < group->writes + group->count; write++) {
		release_blocks(write, group->volume);
		failed |= *write->error != 0;
	}
	if (failed)
		txg_wait_synced(dmu_objset_pool(group->volume->os), group->txg);
	for (struct partial *write = group->writes; write < group->writes + group->count; write++)
		zfs_rangelock_exit(write->range);
	free(group);
}

/* On a filler. */
static void
fill_blocks(void *context)
{
	struct zp_group *group = context, *unfilled = NULL;
	zp_volume *volume = group->volume;
	struct zp_batch *batch = group->batch;
	uint64_t again_txg = 0;
	int error;
	dmu_tx_t *tx = assign(group, &error);

	if (tx != NULL) {
		for (struct partial *write = group->writes; write < group->writes + group->count; write++)
			*write->error = fill_one(group, write, tx);
		if (dmu_tx_get_txg(tx) != group->txg)
			again_txg = dmu_tx_get_txg(tx);
		dmu_tx_commit(tx);
		end_group(group);
	} else {
		unfilled = group;
	}
	mutex_enter(&volume->fill_lock);
	batch->noted_again_txg = MAX(batch->noted_again_txg, again_txg);
	if (unfilled != NULL) {
		unfilled->next = batch->unfilled;
		batch->unfilled = unfilled;
	}
	if (--batch->filling == 0)
		cv_broadcast(&volume->filled);
	mutex_exit(&volume->fill_lock);
}

/* On the thread of the last block that arrived; it must not wait here. */
static void
blocks_arrived(zio_t *zio)
{
	struct zp_group *group = zio->io_private;

	if (group->count == 0)
		free(group);
	else
		VERIFY(taskq_dispatch(fillers, fill_blocks, group, TQ_SLEEP) != TASKQID_INVALID);
}

static struct zp_group *
group_of(zp_volume *volume, struct zp_batch *batch)
{
	if (batch->group == NULL) {
		struct zp_group *group = calloc(1, sizeof (*group));
		group->volume = volume;
		group->batch = batch;
		group->arrival = zio_root(volume->os->os_spa, blocks_arrived, group, ZIO_FLAG_CANFAIL);
		group->arrival->io_type = ZIO_TYPE_READ;	/* so the last block's thread goes on with it, instead of waking another */
		batch->group = group;
	}
	return (batch->group);
}

/* Holds the write's blocks; false: one cannot be had, or all are in memory. */
static boolean_t
hold_blocks(zp_volume *volume, struct partial *write, const void *holder)
{
	dnode_t *data = volume->data;
	uint64_t first = write->offset / volume->block_size, last = (write->offset + write->size - 1) / volume->block_size;
	boolean_t all_held = B_TRUE, all_cached = B_TRUE;

	rw_enter(&data->dn_struct_rwlock, RW_READER);
	for (uint64_t id = first; id <= last && all_held; id++) {
		dmu_buf_impl_t *block = dbuf_hold(data, id, holder);
		all_held = block != NULL;
		all_cached &= all_held && block->db_state == DB_CACHED;
		if (all_held)
			write->blocks[write->block_count++] = block;
	}
	rw_exit(&data->dn_struct_rwlock);
	if (all_held && !all_cached)
		return (B_TRUE);
	release_blocks(write, holder);
	return (B_FALSE);
}

/*
 * Takes over a write, with its range, if it is one of these.  The range covers whole blocks, hence nobody else changes the blocks, or
 * reads them into memory for a write.
 */
boolean_t
zp_partial_take(zp_volume *volume, struct zp_batch *batch, const struct iovec *iov, uint64_t offset, uint64_t size, int *error,
    zfs_locked_range_t *range)
{
	struct partial write = { .iov = iov, .offset = offset, .size = size, .error = error, .range = range };
	boolean_t arriving = B_FALSE;

	if (size >= volume->block_size || !zp_is_copied_to_log(volume, size) || !hold_blocks(volume, &write, volume))
		return (B_FALSE);
	struct zp_group *group = group_of(volume, batch);
	for (int i = 0; i < write.block_count; i++) {
		if (dbuf_read(write.blocks[i], group->arrival, DB_RF_CANFAIL | DB_RF_NOPREFETCH) == 0)
			arriving |= write.blocks[i]->db_state != DB_CACHED;
	}
	if (!arriving) {	/* a hole, or it cannot be read: the ordinary way tells */
		release_blocks(&write, volume);
		return (B_FALSE);
	}
	(void) atomic_inc_64_nv(&volume->partial_writes);
	group->writes[group->count++] = write;
	if (group->count == GROUP_WRITES)
		zp_partial_note(volume, batch);
	return (B_TRUE);
}

/* Notes the records of what was taken; from here on the ranges are the filler's, and the caller may wait for anything. */
void
zp_partial_note(zp_volume *volume, struct zp_batch *batch)
{
	struct zp_group *group = batch->group;
	int error;

	if (group == NULL)
		return;
	batch->group = NULL;
	dmu_tx_t *tx = group->count > 0 ? assign(group, &error) : NULL;
	if (tx != NULL) {
		group->txg = dmu_tx_get_txg(tx);
		for (struct partial *write = group->writes; write < group->writes + group->count; write++)
			zp_note_write(volume, tx, (struct zp_cursor) { write->iov, 0 }, write->offset, write->size);
		dmu_tx_commit(tx);
		batch->newest_txg = MAX(batch->newest_txg, group->txg);
		mutex_enter(&volume->fill_lock);
		batch->filling++;
		mutex_exit(&volume->fill_lock);
	} else {	/* one at a time may fit, and each has an error of its own */
		for (struct partial *write = group->writes; write < group->writes + group->count; write++) {
			*write->error = zp_write_now(volume, batch, write->iov, write->offset, write->size);
			release_blocks(write, volume);
			zfs_rangelock_exit(write->range);
		}
		group->count = 0;
	}
	zio_nowait(group->arrival);
}

/* For whose transaction there was no room: the blocks are in memory now, and each write by itself may have some. */
static void
write_unfilled(zp_volume *volume, struct zp_batch *batch)
{
	struct zp_group *group;

	while ((group = batch->unfilled) != NULL) {
		batch->unfilled = group->next;
		for (struct partial *write = group->writes; write < group->writes + group->count; write++)
			*write->error = zp_write_now(volume, batch, write->iov, write->offset, write->size);
		end_group(group);
	}
}

/* Until all blocks are filled.  True: records were noted since the commit, and want another. */
boolean_t
zp_partial_wait(zp_volume *volume, struct zp_batch *batch)
{
	mutex_enter(&volume->fill_lock);
	while (batch->filling > 0)
		cv_wait(&volume->filled, &volume->fill_lock);
	mutex_exit(&volume->fill_lock);
	boolean_t again = batch->noted_again_txg != 0 || batch->unfilled != NULL;
	batch->newest_txg = MAX(batch->newest_txg, batch->noted_again_txg);
	batch->noted_again_txg = 0;
	write_unfilled(volume, batch);
	return (again);
}

uint64_t
zp_volume_partial_writes(const zp_volume *volume)
{
	return (__atomic_load_n(&volume->partial_writes, __ATOMIC_RELAXED));
}
