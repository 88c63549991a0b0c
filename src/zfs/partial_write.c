/*
 * The embedded OpenZFS: a small write to a block of which the rest is not in memory.
 *
 * The record in the log needs the client's bytes only, so the log is written while the rest of the block is read; the write is answered
 * when both are done.  Such writes of a batch share a transaction: the committer assigns it and notes their records, then goes on to the
 * commit; a thread of `fillers` puts the bytes into the blocks when these have arrived, and ends the transaction.  Whatever the committer
 * waits for meanwhile (the log, or a txg, that of this transaction too) waits at most for that thread, which waits for none of them.
 *
 * A block that cannot be read fails its write, whose record may be in the log already: the answer waits until the transaction's txg has
 * synced, as the record is void then, and no replay meets it.
 */
#include "zfs/zfs_internal.h"

#define	GROUP_WRITES	32
#define	FILLERS		2

struct partial {
	const struct iovec *iov;
	uint64_t offset, size;
	int *error;
	zfs_locked_range_t *range;
	dmu_buf_impl_t *blocks[2];	/* the second NULL: all of it is in one */
};

struct zp_group {
	zp_volume *volume;
	struct zp_batch *batch;
	zio_t *arrival;
	dmu_tx_t *tx;
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
release(struct zp_group *group)
{
	for (struct partial *write = group->writes; write < group->writes + group->count; write++) {
		for (int i = 0; i < 2 && write->blocks[i] != NULL; i++)
			dbuf_rele(write->blocks[i], group);
		zfs_rangelock_exit(write->range);
	}
	group->count = 0;
}

static void
put_bytes(zp_volume *volume, const struct partial *write, dmu_tx_t *tx)
{
	struct zp_cursor from = { write->iov, 0 };

	for (uint64_t done = 0, piece_size; done < write->size; done += piece_size) {
		const void *piece = zp_next_piece(&from, write->size - done, &piece_size);
		VERIFY0(dmu_write_by_dnode(volume->data, write->offset + done, piece_size, piece, tx));
	}
}

/* On a filler. */
static void
fill_blocks(void *context)
{
	struct zp_group *group = context;
	zp_volume *volume = group->volume;
	struct zp_batch *batch = group->batch;
	uint64_t txg = dmu_tx_get_txg(group->tx);
	boolean_t failed = B_FALSE;

	for (struct partial *write = group->writes; write < group->writes + group->count; write++) {
		for (int i = 0; i < 2 && write->blocks[i] != NULL; i++) {
			if (write->blocks[i]->db_state != DB_CACHED)
				*write->error = SET_ERROR(EIO);
		}
		if (*write->error == 0)
			put_bytes(volume, write, group->tx);
		failed |= *write->error != 0;
	}
	dmu_tx_commit(group->tx);
	release(group);
	free(group);
	mutex_enter(&volume->fill_lock);
	if (failed)
		batch->void_txg = MAX(batch->void_txg, txg);
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
new_group(zp_volume *volume, struct zp_batch *batch)
{
	struct zp_group *group = calloc(1, sizeof (*group));

	group->volume = volume;
	group->batch = batch;
	group->arrival = zio_root(volume->os->os_spa, blocks_arrived, group, ZIO_FLAG_CANFAIL);
	group->arrival->io_type = ZIO_TYPE_READ;	/* so the last block's thread goes on with it, instead of waking another */
	return (group);
}

/*
 * Takes over a write, with its range, if it is one of these.  The range covers whole blocks, hence nobody else changes the blocks, or
 * reads them into memory for a write.
 */
boolean_t
zp_partial_take(zp_volume *volume, struct zp_batch *batch, const struct iovec *iov, uint64_t offset, uint64_t size, int *error,
    zfs_locked_range_t *range)
{
	dnode_t *data = volume->data;
	uint64_t first = offset / volume->block_size, last = (offset + size - 1) / volume->block_size;
	boolean_t arriving = B_FALSE;

	if (size >= volume->block_size || !zp_is_copied_to_log(volume, size))
		return (B_FALSE);
	if (batch->group == NULL)
		batch->group = new_group(volume, batch);
	struct zp_group *group = batch->group;
	struct partial *write = &group->writes[group->count];
	*write = (struct partial) { .iov = iov, .offset = offset, .size = size, .error = error, .range = range };
	rw_enter(&data->dn_struct_rwlock, RW_READER);
	for (uint64_t id = first; id <= last; id++)
		write->blocks[id - first] = dbuf_hold(data, id, group);
	rw_exit(&data->dn_struct_rwlock);
	for (uint64_t id = first; id <= last; id++) {
		dmu_buf_impl_t *block = write->blocks[id - first];
		if (block != NULL && block->db_state != DB_CACHED &&
		    dbuf_read(block, group->arrival, DB_RF_CANFAIL | DB_RF_NOPREFETCH) == 0)
			arriving |= block->db_state != DB_CACHED;
	}
	if (!arriving || write->blocks[0] == NULL) {	/* all are there, or cannot be had: the ordinary way tells */
		for (int i = 0; i < 2; i++) {
			if (write->blocks[i] != NULL)
				dbuf_rele(write->blocks[i], group);
		}
		return (B_FALSE);
	}
	(void) atomic_inc_64_nv(&volume->partial_writes);
	if (++group->count == GROUP_WRITES)
		zp_partial_note(volume, batch);
	return (B_TRUE);
}

/*
 * Notes the records of what was taken; from here on the ranges and the transaction are the filler's, and the caller may wait for
 * anything.
 */
void
zp_partial_note(zp_volume *volume, struct zp_batch *batch)
{
	struct zp_group *group = batch->group;

	if (group == NULL)
		return;
	batch->group = NULL;
	if (group->count > 0) {
		dmu_tx_t *tx = dmu_tx_create(volume->os);
		for (struct partial *write = group->writes; write < group->writes + group->count; write++) {
			uint64_t begin = P2ALIGN_TYPED(write->offset, volume->block_size, uint64_t);
			uint64_t end = P2ROUNDUP_TYPED(write->offset + write->size, volume->block_size, uint64_t);
			dmu_tx_hold_write_by_dnode(tx, volume->data, begin, end - begin);	/* whole blocks: reads nothing */
		}
		int error = dmu_tx_assign(tx, DMU_TX_WAIT);
		if (error != 0) {	/* one at a time may fit, and each has an error of its own */
			dmu_tx_abort(tx);
			for (struct partial *write = group->writes; write < group->writes + group->count; write++)
				*write->error = zp_write_now(volume, batch, write->iov, write->offset, write->size);
			release(group);
		} else {
			for (struct partial *write = group->writes; write < group->writes + group->count; write++)
				zp_note_write(volume, tx, (struct zp_cursor) { write->iov, 0 }, write->offset, write->size);
			batch->newest_txg = MAX(batch->newest_txg, dmu_tx_get_txg(tx));
			group->tx = tx;
			mutex_enter(&volume->fill_lock);
			batch->filling++;
			mutex_exit(&volume->fill_lock);
		}
	}
	zio_nowait(group->arrival);
}

void
zp_partial_wait(zp_volume *volume, struct zp_batch *batch)
{
	mutex_enter(&volume->fill_lock);
	while (batch->filling > 0)
		cv_wait(&volume->filled, &volume->fill_lock);
	mutex_exit(&volume->fill_lock);
	if (batch->void_txg != 0)
		txg_wait_synced(dmu_objset_pool(volume->os), batch->void_txg);
}

uint64_t
zp_volume_partial_writes(const zp_volume *volume)
{
	return (__atomic_load_n(&volume->partial_writes, __ATOMIC_RELAXED));
}
