/*
 * The embedded OpenZFS: where its I/O pipeline need not change threads.  A durable write at a time waits for each thread that it is
 * handed to: 10 to 25 us of wake-up each.
 *
 * spa_taskq_dispatch() hands a zio to another thread, so that the one which has it can go on with something else.  Two of these
 * have nothing else to do:
 * - The committer that issues a log block, and then sleeps until it is written.  It may wait for what the issuing stages wait for,
 *   the config lock as reader: who wants that as writer waits first for SCL_STATE, which each log block holds until it is done.  It
 *   mostly holds nothing, as upstream issues log blocks after the issuer lock is released (zil_commit_writer()); no completion
 *   takes that lock.
 * - The thread that completed the last child of a zio without a type, that is, of a root whose callback tells who waits for it (the
 *   log's: zil_lwb_flush_vdevs_done()).  Upstream hands these on for the kernel's small stacks.
 */
#include "zfs/zfs_internal.h"

#include <dlfcn.h>

typedef void dispatch_func_t(spa_t *, zio_type_t, zio_taskq_type_t, task_func_t *, zio_t *, boolean_t);

static dispatch_func_t *hand_over;
static uint64_t log_blocks_issued, roots_ended;

void
zp_pipeline_install(void)
{
	hand_over = (dispatch_func_t *)dlsym(RTLD_NEXT, "spa_taskq_dispatch");
	if (hand_over == NULL)
		zp_die("this libzpool has no spa_taskq_dispatch: it is unknown");
}

static boolean_t
issues_log_block(const zio_t *zio, zio_type_t type, zio_taskq_type_t queue)
{
	return (type == ZIO_TYPE_WRITE && (queue == ZIO_TASKQ_ISSUE || queue == ZIO_TASKQ_ISSUE_HIGH) &&
	    zio->io_bookmark.zb_level == ZB_ZIL_LEVEL && taskq_of_curthread() == NULL);
}

static boolean_t
ends_root(const zio_t *zio, zio_type_t type, zio_taskq_type_t queue)
{
	return (type == ZIO_TYPE_NULL && zio->io_type == ZIO_TYPE_NULL && queue == ZIO_TASKQ_INTERRUPT &&
	    taskq_of_curthread() != NULL);
}

/* Found before libzpool's own. */
void
spa_taskq_dispatch(spa_t *spa, zio_type_t type, zio_taskq_type_t queue, task_func_t *func, zio_t *zio, boolean_t cut_in_line)
{
	static __thread boolean_t within = B_FALSE;	/* what ends a root within another one's end is handed over: the stack is bounded */
	boolean_t issues = issues_log_block(zio, type, queue), ends = ends_root(zio, type, queue);

	if (func != zio_execute || within || !(issues || ends)) {
		hand_over(spa, type, queue, func, zio, cut_in_line);
		return;
	}
	__atomic_fetch_add(issues ? &log_blocks_issued : &roots_ended, 1, __ATOMIC_RELAXED);
	within = B_TRUE;
	func(zio);
	within = B_FALSE;
}

void
zp_pipeline_counts(uint64_t *log_blocks, uint64_t *roots)
{
	*log_blocks = __atomic_load_n(&log_blocks_issued, __ATOMIC_RELAXED);
	*roots = __atomic_load_n(&roots_ended, __ATOMIC_RELAXED);
}
