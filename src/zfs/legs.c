/*
 * The embedded OpenZFS, second part: our leaf driver in the place of vdev_disk_ops, the gate, and a leg's life.
 *
 * Driver.  io_start hands the command to the C++ driver, which gives it to the leg's BlockDevice on the reactor; zp_zio_done()
 * completes it.  The data is copied once, on OpenZFS's own threads: a command must be failed upward while its device, which
 * does not answer, still owns the buffer.  No lock of ours is held across a call of OpenZFS.
 *
 * Return of legs (rule 8).  A leg that comes online while a resilver runs may be declared complete without having been
 * copied: the end of a resilver empties the missing-txg list of every healthy leg up to the scan's maximum, whatever the scan
 * visited.  So: no scan running; every returning leg seeded from the same `since`, synced, online, with the library kept from
 * asking for a resilver until the last is; one more txg synced; our own resilver; and then only the scan's own record is
 * believed.
 */
#include "zfs/zfs_internal.h"

#include <sys/mman.h>

void
zp_die(const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	int size = vsnprintf(text, sizeof (text) - 1, format, args);
	va_end(args);
	size = MIN(size, (int)sizeof (text) - 2);
	text[size] = '\n';
	ssize_t written = write(STDERR_FILENO, text, size + 1);
	(void) written;
	abort();
}

/* ---- the self-test's legs: two pieces of memory */

#define	SELF_TEST_POOL	"zpair-self-test"
#define	SELF_TEST_SIZE	(96ULL << 20)
static struct memory_leg {
	const char *path;
	char *bytes;
	volatile boolean_t failing;
	volatile uint64_t guid;
} memory_legs[2] = { { "/" SELF_TEST_POOL "/0", NULL, B_FALSE, 0 }, { "/" SELF_TEST_POOL "/1", NULL, B_FALSE, 0 } };
static volatile boolean_t self_testing = B_FALSE;
static volatile uint64_t self_test_shorts[2];	/* short writes that the gate saw, per leg */

static struct memory_leg *
memory_leg_of(const vdev_t *vd)
{
	if (!self_testing || vd->vdev_path == NULL)
		return (NULL);
	for (int i = 0; i < 2; i++) {
		if (strcmp(memory_legs[i].path, vd->vdev_path) == 0)
			return (&memory_legs[i]);
	}
	return (NULL);
}

static void
memory_leg_io(struct memory_leg *leg, zio_t *zio)
{
	if (zio->io_type == ZIO_TYPE_READ)
		abd_copy_from_buf(zio->io_abd, leg->bytes + zio->io_offset, zio->io_size);
	else if (leg->failing)
		zio->io_error = SET_ERROR(EIO);
	else if (zio->io_type == ZIO_TYPE_WRITE)
		abd_copy_to_buf(leg->bytes + zio->io_offset, zio->io_abd, zio->io_size);
	zio_interrupt(zio);
}

/* ---- the leaf driver */

static int
leg_open(vdev_t *vd, uint64_t *psize, uint64_t *max_psize, uint64_t *logical_ashift, uint64_t *physical_ashift)
{
	uint64_t size;
	uint32_t block_size;
	int remote;
	struct memory_leg *memory = memory_leg_of(vd);

	if (memory != NULL) {
		memory->guid = vd->vdev_guid;
		vd->vdev_tsd = memory;
		*psize = *max_psize = SELF_TEST_SIZE;
		*logical_ashift = *physical_ashift = 12;
		return (0);
	}
	void *leg = zp_leg_find(vd->vdev_guid, vd->vdev_path != NULL ? vd->vdev_path : "");
	if (leg == NULL || zp_leg_offered(leg, &size, &block_size, &remote) != 0) {
		vd->vdev_stat.vs_aux = VDEV_AUX_OPEN_FAILED;
		return (SET_ERROR(ENXIO));
	}
	vd->vdev_tsd = leg;
	/*
	 * A mirror reads the child with the least load; a seek counts five commands on a "rotating" one: so reads stay on the local
	 * leg while it keeps up.  Rotating children also get longer aggregates, which suits the network.
	 */
	vd->vdev_nonrot = !remote;
	vd->vdev_has_trim = B_TRUE;
	vd->vdev_has_securetrim = B_FALSE;
	vd->vdev_nowritecache = B_FALSE;
	*psize = *max_psize = size;
	*logical_ashift = MAX(highbit64(block_size) - 1, SPA_MINBLOCKSHIFT);
	*physical_ashift = MAX(*logical_ashift, 12);
	return (0);
}

static void
leg_close(vdev_t *vd)
{
	if (vd->vdev_reopening)
		return;
	vd->vdev_tsd = NULL;
	vd->vdev_delayed_close = B_FALSE;
}

static void
leg_io_start(zio_t *zio)
{
	vdev_t *vd = zio->io_vd;
	enum zp_operation operation;

	if (vd->vdev_tsd == NULL) {
		/*
		 * OpenZFS closed the leg by itself, and nobody above would learn that its flush did not happen: neither the log's
		 * commit nor the uberblock.  What is written without a flush in between goes through the gate.
		 */
		if (zio->io_type == ZIO_TYPE_FLUSH && zp_guid_in_ack_set(vd->vdev_guid))
			zp_die("rule 2: OpenZFS has closed leg %llu (%s), which is in the ack set: its flush cannot be done. This process "
			    "ends before anything is acknowledged over it.", (u_longlong_t)vd->vdev_guid,
			    vd->vdev_path != NULL ? vd->vdev_path : "?");
		zio->io_error = SET_ERROR(ENXIO);
		zio_interrupt(zio);
		return;
	}
	if (vd->vdev_tsd == &memory_legs[0] || vd->vdev_tsd == &memory_legs[1]) {
		memory_leg_io(vd->vdev_tsd, zio);
		return;
	}
	switch (zio->io_type) {
	case ZIO_TYPE_READ:
		operation = ZP_READ;
		break;
	case ZIO_TYPE_WRITE:
		operation = ZP_WRITE;
		break;
	case ZIO_TYPE_FLUSH:
		operation = ZP_FLUSH;
		break;
	case ZIO_TYPE_TRIM:
		operation = ZP_TRIM;
		break;
	default:
		zp_die("a leg got a command of type %d from OpenZFS", zio->io_type);
	}
	if (operation == ZP_FLUSH && zp_mutated(ZP_FLUSHES_ELIDED)) {
		zio_interrupt(zio);
		return;
	}
	if (operation == ZP_FLUSH && zp_leg_all_flushed(vd->vdev_tsd)) {
		zio_execute(zio);
		return;
	}
	struct zp_leg_io *io = zp_leg_io_new(operation, operation == ZP_FLUSH ? 0 : zio->io_size);
	io->of_log = operation == ZP_WRITE && zio->io_bookmark.zb_level == ZB_ZIL_LEVEL;
	io->zio = zio;
	io->leg = vd->vdev_tsd;
	io->offset_bytes = operation == ZP_FLUSH ? 0 : zio->io_offset;
	io->in_labels = operation != ZP_FLUSH && (VDEV_OFFSET_IS_LABEL(vd, zio->io_offset) ||
	    VDEV_OFFSET_IS_LABEL(vd, zio->io_offset + zio->io_size - 1));
	if (operation == ZP_WRITE)
		abd_copy_to_buf(io->buffer, zio->io_abd, zio->io_size);
	zp_leg_submit(io);
}

void
zp_zio_done(void *opaque, int error, struct zp_leg_io *data)
{
	zio_t *zio = opaque;
	zio->io_error = error;
	zio->io_bio = data;
	zio_interrupt(zio);
}

/* On a thread of OpenZFS's: the place to copy, rather than the reactor. */
static void
leg_io_done(zio_t *zio)
{
	struct zp_leg_io *data = zio->io_bio;

	if (data == NULL)
		return;
	zio->io_bio = NULL;
	if (zio->io_error == 0)
		abd_copy_from_buf(zio->io_abd, data->buffer, zio->io_size);
	zp_leg_io_free(data);
}

static void
leg_hold_release(vdev_t *vd)
{
	(void) vd;
}

/* Found before libzpool's own. */
vdev_ops_t vdev_disk_ops = {
	.vdev_op_open = leg_open,
	.vdev_op_close = leg_close,
	.vdev_op_asize = vdev_default_asize,
	.vdev_op_min_asize = vdev_default_min_asize,
	.vdev_op_io_start = leg_io_start,
	.vdev_op_io_done = leg_io_done,
	.vdev_op_hold = leg_hold_release,
	.vdev_op_rele = leg_hold_release,
	.vdev_op_xlate = vdev_default_xlate,
	.vdev_op_type = VDEV_TYPE_DISK,
	.vdev_op_leaf = B_TRUE,
};

/*
 * ---- the gate (rule 2)
 *
 * ZFS counts a mirror write as done when one leg took it.  Every mirror's io_done is wrapped here: before the real one runs, the
 * legs of the ack set are looked at in the mirror's own map, and a write that is short on one of them ends the process before
 * anything above can be acknowledged.  It stands in the mirror and not in the leaf driver, because a leg that ZFS itself dropped
 * never reaches the driver again.  The map's layout is private to vdev_mirror.c and copied here: it is checked at every write
 * (children and their pointers must be the vdev's own), and by the self-test at start.
 */

/* As in vdev_mirror.c of 2.3.2. */
typedef struct gate_child {
	vdev_t *mc_vd;
	abd_t *mc_abd;
	uint64_t mc_offset;
	int mc_error;
	int mc_load;
	uint8_t mc_tried;
	uint8_t mc_skipped;
	uint8_t mc_speculative;
	uint8_t mc_rebuilding;
} gate_child_t;
typedef struct gate_map {
	int *mm_preferred;
	int mm_preferred_cnt;
	int mm_children;
	boolean_t mm_resilvering;
	boolean_t mm_rebuilding;
	boolean_t mm_root;
	gate_child_t mm_child[];
} gate_map_t;

static void (*real_mirror_done)(zio_t *);
static uint64_t gate_writes, gate_allowed_shorts;

static boolean_t
leaf_must_hold_writes(vdev_t *vd)
{
	if (vd->vdev_ops != &vdev_disk_ops)
		return (B_FALSE);	/* a mirror or a replacing vdev within: its own gate looks at its leaves */
	if (vd->vdev_tsd == &memory_legs[0] || vd->vdev_tsd == &memory_legs[1])
		return (B_TRUE);
	/* A leg that OpenZFS closed by itself has no driver any more, and may be in the ack set all the same. */
	return (vd->vdev_tsd != NULL ? zp_leg_in_ack_set(vd->vdev_tsd) : zp_guid_in_ack_set(vd->vdev_guid));
}

static void
gate_done(zio_t *zio)
{
	gate_map_t *map = zio->io_vsd;

	if (zio->io_type == ZIO_TYPE_WRITE && zio->io_vd != NULL && map != NULL) {
		vdev_t *mirror = zio->io_vd;
		if (map->mm_children != (int)mirror->vdev_children)
			zp_die("rule 2: the gate cannot read libzpool's mirror map (%d children of %llu)", map->mm_children,
			    (u_longlong_t)mirror->vdev_children);
		__atomic_fetch_add(&gate_writes, 1, __ATOMIC_RELAXED);
		for (int c = 0; c < map->mm_children; c++) {
			gate_child_t *child = &map->mm_child[c];
			if (child->mc_vd != mirror->vdev_child[c])
				zp_die("rule 2: the gate cannot read libzpool's mirror map (child %d)", c);
			if (child->mc_tried && child->mc_error == 0)
				continue;
			if (!leaf_must_hold_writes(child->mc_vd) || zp_mutated(ZP_SHORT_WRITES_PASS)) {
				__atomic_fetch_add(&gate_allowed_shorts, 1, __ATOMIC_RELAXED);
				continue;
			}
			if (child->mc_vd->vdev_tsd == &memory_legs[0] || child->mc_vd->vdev_tsd == &memory_legs[1]) {
				self_test_shorts[(struct memory_leg *)child->mc_vd->vdev_tsd - memory_legs]++;
				continue;
			}
			zp_die("rule 2: a write of txg %llu is short on leg %llu (%s), which is in the ack set: tried %d, error %d (%s). "
			    "Nothing of it was acknowledged; this process ends.", (u_longlong_t)zio->io_txg,
			    (u_longlong_t)child->mc_vd->vdev_guid,
			    child->mc_vd->vdev_path != NULL ? child->mc_vd->vdev_path : "?", child->mc_tried, child->mc_error,
			    strerror(child->mc_error));
		}
	}
	real_mirror_done(zio);
}

static int (*real_mirror_open)(vdev_t *, uint64_t *, uint64_t *, uint64_t *, uint64_t *);

/*
 * An operator's override may name legs that the pool's config calls offline: of a side whose legs were coming back one after the
 * other.  OpenZFS would not even try to open them.  In any other import such a leg lacks what nobody wrote down: it stays closed.
 */
static int
open_named(vdev_t *mirror, uint64_t *psize, uint64_t *max_psize, uint64_t *logical_ashift, uint64_t *physical_ashift)
{
	boolean_t overridden = spa_load_state(mirror->vdev_spa) == SPA_LOAD_IMPORT && zp_import_is_overridden();

	for (uint64_t c = 0; c < mirror->vdev_children && overridden; c++) {
		vdev_t *leg = mirror->vdev_child[c];
		if (leg->vdev_offline && zp_leg_find(leg->vdev_guid, leg->vdev_path != NULL ? leg->vdev_path : "") != NULL)
			leg->vdev_offline = B_FALSE;
	}
	return (real_mirror_open(mirror, psize, max_psize, logical_ashift, physical_ashift));
}

/* The ops are const and read-only after relocation. */
static void
put_gate(vdev_ops_t *ops)
{
	uintptr_t page = sysconf(_SC_PAGESIZE);
	uintptr_t begin = (uintptr_t)ops & ~(page - 1);

	if (ops->vdev_op_io_done != real_mirror_done || ops->vdev_op_open != real_mirror_open)
		zp_die("rule 2: %s is not made like the mirror: this libzpool is unknown", ops->vdev_op_type);
	if (mprotect((void *)begin, (uintptr_t)(ops + 1) - begin, PROT_READ | PROT_WRITE) != 0)
		zp_die("rule 2: cannot put the gate into %s: %s", ops->vdev_op_type, strerror(errno));
	*(void (**)(zio_t *))(uintptr_t)&ops->vdev_op_io_done = gate_done;
	*(__typeof__(real_mirror_open) *)(uintptr_t)&ops->vdev_op_open = open_named;
	(void) mprotect((void *)begin, (uintptr_t)(ops + 1) - begin, PROT_READ);
}

void
zp_gate_install(void)
{
	real_mirror_done = vdev_mirror_ops.vdev_op_io_done;
	real_mirror_open = vdev_mirror_ops.vdev_op_open;
	put_gate(&vdev_mirror_ops);
	put_gate(&vdev_replacing_ops);
	put_gate(&vdev_spare_ops);
}

void
zp_gate_counts(uint64_t *writes, uint64_t *allowed_short_writes)
{
	*writes = __atomic_load_n(&gate_writes, __ATOMIC_RELAXED);
	*allowed_short_writes = __atomic_load_n(&gate_allowed_shorts, __ATOMIC_RELAXED);
}

/*
 * A pool on two pieces of memory: the gate must see its writes, none short while both take them, and those that are short on
 * the leg that fails, on no other.
 */
int
zp_gate_self_test(struct zp_why *why)
{
	uint64_t before, after, ignored;
	int error = 0;

	for (int i = 0; i < 2; i++) {
		memory_legs[i].bytes = mmap(NULL, SELF_TEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
		if (memory_legs[i].bytes == MAP_FAILED)
			return (zp_explain(why, ENOMEM, "no memory for the gate's self-test"));
		memory_legs[i].failing = B_FALSE;
		self_test_shorts[i] = 0;
	}
	self_testing = B_TRUE;
	zp_gate_counts(&before, &ignored);
	struct zp_leg_spec legs[2] = { { memory_legs[0].path }, { memory_legs[1].path } };
	struct zp_mirror_spec mirror = { "normal", legs, 2 };
	nvlist_t *props = fnvlist_alloc();
	fnvlist_add_string(props, zpool_prop_to_name(ZPOOL_PROP_CACHEFILE), "none");
	nvlist_t *tree = zp_mirror_tree(&mirror, 1);
	error = spa_create(SELF_TEST_POOL, tree, props, NULL, NULL);
	fnvlist_free(tree);
	fnvlist_free(props);
	if (error != 0) {
		zp_explain(why, error, "the gate's self-test cannot create its pool: %s", strerror(error));
	} else {
		zp_gate_counts(&after, &ignored);
		uint64_t healthy_shorts = self_test_shorts[0] + self_test_shorts[1];
		memory_legs[1].failing = B_TRUE;
		(void) dsl_prop_set_int(SELF_TEST_POOL, zfs_prop_to_name(ZFS_PROP_SYNC), ZPROP_SRC_LOCAL, ZFS_SYNC_ALWAYS);
		if (after == before || healthy_shorts != 0 || self_test_shorts[0] != 0 || self_test_shorts[1] == 0) {
			error = zp_explain(why, EPROTO, "the gate's self-test failed (rule 2): %llu writes seen, %llu short with both legs "
			    "well, then %llu on the good leg and %llu on the failing one", (u_longlong_t)(after - before),
			    (u_longlong_t)healthy_shorts, (u_longlong_t)self_test_shorts[0], (u_longlong_t)self_test_shorts[1]);
		}
		(void) spa_destroy(SELF_TEST_POOL);
	}
	self_testing = B_FALSE;
	for (int i = 0; i < 2; i++) {
		(void) munmap(memory_legs[i].bytes, SELF_TEST_SIZE);
		memory_legs[i].bytes = NULL;
	}
	return (error);
}

/* ---- a leg's life */

/*
 * Persistent, all in one step and without waiting for a txg: ZFS goes on with the other legs at once, and does not open them
 * again.  The driver has failed what it held before, else this would wait for it for ever.
 */
int
zp_legs_offline(zp_pool *pool, const uint64_t *guids, int count, struct zp_why *why)
{
	spa_t *spa = pool->spa;
	int error = 0;

	spa_vdev_state_enter(spa, SCL_NONE);
	for (int i = 0; i < count; i++) {
		vdev_t *vd = spa_lookup_by_guid(spa, guids[i], B_FALSE);
		if (vd == NULL || !vd->vdev_ops->vdev_op_leaf)
			continue;	/* left the pool meanwhile */
		if (vd->vdev_offline) {
			vd->vdev_tmpoffline = B_FALSE;
			continue;
		}
		if (!vd->vdev_top->vdev_islog && vdev_dtl_required(vd)) {
			error = zp_explain(why, EBUSY, "leg %llu (%s) holds the last good copy of something in its mirror",
			    (u_longlong_t)guids[i], vd->vdev_path);
			continue;
		}
		vd->vdev_offline = B_TRUE;
		vd->vdev_tmpoffline = B_FALSE;
		vdev_reopen(vd);
		if (!vd->vdev_top->vdev_islog && vdev_is_dead(vd->vdev_top)) {
			vd->vdev_offline = B_FALSE;
			vdev_reopen(vd);
			error = zp_explain(why, EBUSY, "without leg %llu (%s) its mirror has no leg", (u_longlong_t)guids[i],
			    vd->vdev_path);
			continue;
		}
		vdev_state_dirty(vd->vdev_top);
	}
	(void) spa_vdev_state_exit(spa, NULL, 0);
	return (error);
}

static boolean_t
scan_is_busy(spa_t *spa)
{
	dsl_pool_t *dp = spa_get_dsl(spa);
	return (dsl_scan_resilvering(dp) || dsl_scan_resilver_scheduled(dp) || dsl_scan_scrubbing(dp));
}

static void
report(zp_pool *pool, struct zp_resync *resync)
{
	(void) zp_pool_look(pool, &resync->scan);
	if (resync->on_progress != NULL)
		resync->on_progress(resync->context, &resync->scan);
}

#define	POLL_US	2000	/* OpenZFS tells nobody when a scan ends */

/* No scan running or scheduled: a scrub is cancelled, a resilver is waited for. */
static void
wait_for_no_scan(zp_pool *pool, struct zp_resync *resync)
{
	spa_t *spa = pool->spa;

	while (scan_is_busy(spa)) {
		if (dsl_scan_scrubbing(spa_get_dsl(spa)))
			(void) dsl_scan_cancel(spa_get_dsl(spa));
		else
			(void) usleep(POLL_US);
		report(pool, resync);
	}
}

/* Every txg from `since` to now into the leg's missing-txg list, and synced. */
static int
seed(spa_t *spa, uint64_t guid, uint64_t since, uint64_t *seeded_txg, struct zp_why *why)
{
	dsl_pool_t *dp = spa_get_dsl(spa);
	dmu_tx_t *tx = dmu_tx_create_dd(dp->dp_mos_dir);
	int error = dmu_tx_assign(tx, DMU_TX_WAIT);

	if (error != 0) {
		dmu_tx_abort(tx);
		return (zp_explain(why, error, "cannot note the missing txgs: %s", strerror(error)));
	}
	uint64_t txg = dmu_tx_get_txg(tx);
	/*
	 * The guid cannot leave the pool meanwhile: the caller allows no attach, detach or replace during a resync.  The
	 * config lock is not taken inside a tx: a txg that syncs may want it.
	 */
	vdev_t *vd = spa_lookup_by_guid(spa, guid, B_FALSE);
	for (uint64_t t = since; t <= txg; t++)
		vdev_dtl_dirty(vd, DTL_MISSING, t, 1);
	vdev_dirty(vd->vdev_top, VDD_DTL, vd, txg);
	dmu_tx_commit(tx);
	txg_wait_synced(dp, txg);
	*seeded_txg = txg;
	return (0);
}

/* The leg alone is opened again, not its mirror: its labels are read and tried, those of the leg beside it are not. */
static void
bring_online(spa_t *spa, uint64_t guid)
{
	spa_vdev_state_enter(spa, SCL_NONE);
	vdev_t *vd = spa_lookup_by_guid(spa, guid, B_FALSE);
	if (zp_leg_find(guid, vd->vdev_path) != NULL) {		/* else it failed again meanwhile, and stays offline */
		vd->vdev_offline = vd->vdev_tmpoffline = B_FALSE;
		vd->vdev_faulted = vd->vdev_degraded = vd->vdev_removed = 0;
		vd->vdev_cant_read = vd->vdev_cant_write = B_FALSE;
		vd->vdev_label_aux = 0;
		vd->vdev_stat.vs_aux = 0;
		vdev_reopen(vd);
		vdev_state_dirty(vd->vdev_top);
	}
	(void) spa_vdev_state_exit(spa, NULL, 0);
}

/*
 * Leg by leg: no log block is written while a leg is opened, and a txg writes the labels of every mirror that changed (8 times
 * 112 KiB each), so clients wait for one leg and not for all.  The txg that notes what a leg misses writes the labels of the
 * one before it.  Noted right before: what is logged in between would be in no list.
 */
static int
seed_and_bring_online(spa_t *spa, const uint64_t *guids, int count, uint64_t since, uint64_t *seeded_txg, struct zp_why *why)
{
	int error = 0;

	spa->spa_scrub_reopen = B_TRUE;		/* vdev_open() asks for no resilver while half of the legs are back */
	for (int i = 0; i < count && error == 0; i++) {
		if (!zp_mutated(ZP_RETURN_WITHOUT_SEED))
			error = seed(spa, guids[i], since, seeded_txg, why);
		if (error == 0)
			bring_online(spa, guids[i]);
	}
	spa->spa_scrub_reopen = B_FALSE;
	return (error);
}

static int
legs_are_well(spa_t *spa, const uint64_t *guids, int count, struct zp_why *why)
{
	int error = 0;

	spa_config_enter(spa, SCL_CONFIG | SCL_VDEV, FTAG, RW_READER);
	for (int i = 0; i < count && error == 0; i++) {
		vdev_t *vd = spa_lookup_by_guid(spa, guids[i], B_FALSE);
		if (vd == NULL)
			error = zp_explain(why, ENODEV, "leg %llu is not in the pool", (u_longlong_t)guids[i]);
		else if (vd->vdev_state != VDEV_STATE_HEALTHY)
			error = zp_explain(why, EIO, "leg %llu (%s) is in state %d, not healthy", (u_longlong_t)guids[i], vd->vdev_path,
			    (int)vd->vdev_state);
		else if (!vdev_dtl_empty(vd, DTL_MISSING))
			error = zp_explain(why, EAGAIN, "leg %llu (%s) still misses txgs", (u_longlong_t)guids[i], vd->vdev_path);
	}
	spa_config_exit(spa, SCL_CONFIG | SCL_VDEV, FTAG);
	return (error);
}

/*
 * The scan's own record: a finished resilver, without an error, that began below `since` and went past the newest txg that the
 * legs were known to miss (a scan leaves its first and its last txg out).  Only writeable legs count at its set-up, so it was
 * set up after they came online.
 */
static int
scan_covers(spa_t *spa, uint64_t since, uint64_t newest_txg, struct zp_why *why)
{
	dsl_scan_phys_t *scan = &spa_get_dsl(spa)->dp_scan->scn_phys;

	if (scan->scn_func != POOL_SCAN_RESILVER || scan->scn_state != DSS_FINISHED)
		return (zp_explain(why, EAGAIN, "the resync did not finish"));
	if (scan->scn_errors != 0)
		return (zp_explain(why, EIO, "the resync met %llu errors", (u_longlong_t)scan->scn_errors));
	if (scan->scn_min_txg >= since)
		return (zp_explain(why, EAGAIN, "the resync began at txg %llu, not below %llu", (u_longlong_t)scan->scn_min_txg,
		    (u_longlong_t)since));
	if (scan->scn_max_txg <= newest_txg)
		return (zp_explain(why, EAGAIN, "the resync ended at txg %llu, but txg %llu was missed too",
		    (u_longlong_t)scan->scn_max_txg, (u_longlong_t)newest_txg));
	return (0);
}

int
zp_legs_bring_back(zp_pool *pool, const uint64_t *guids, int count, uint64_t since, struct zp_resync *resync,
    struct zp_why *why)
{
	spa_t *spa = pool->spa;
	dsl_pool_t *dp = spa_get_dsl(spa);
	uint64_t seeded_txg = 0;
	int error = 0;

	since = MAX(since, TXG_INITIAL);	/* nothing was born earlier */
	spa_config_enter(spa, SCL_CONFIG, FTAG, RW_READER);
	for (int i = 0; i < count && error == 0; i++) {
		if (spa_lookup_by_guid(spa, guids[i], B_FALSE) == NULL)
			error = zp_explain(why, ENODEV, "leg %llu is not in the pool", (u_longlong_t)guids[i]);
	}
	spa_config_exit(spa, SCL_CONFIG, FTAG);
	if (error != 0)
		return (error);

	wait_for_no_scan(pool, resync);				/* 1: every log was replayed at the import */
	if (zp_mutated(ZP_SINCE_TOO_HIGH))
		since = spa_last_synced_txg(spa) + 1;
	error = seed_and_bring_online(spa, guids, count, since, &seeded_txg, why);	/* 2, 3 */
	if (error != 0)
		return (error);
	txg_wait_synced(dp, 0);					/* 4: a txg that was opened after it has synced */
	if (zp_mutated(ZP_GROW_BEFORE_RESYNC)) {
		resync->accepted = 1;
		return (0);
	}
	dsl_scan_restart_resilver(dp, 0);			/* 5 */
	txg_wait_synced(dp, 0);
	while (dsl_scan_resilvering(dp) || dsl_scan_resilver_scheduled(dp)) {
		report(pool, resync);
		(void) usleep(POLL_US);
	}
	txg_wait_synced(dp, 0);
	report(pool, resync);
	if (!zp_mutated(ZP_RETURN_WITHOUT_SEED))
		error = scan_covers(spa, since, seeded_txg, why);	/* 6 */
	if (error == 0)
		error = legs_are_well(spa, guids, count, why);
	resync->accepted = error == 0;
	return (0);
}

int
zp_leg_attach(zp_pool *pool, uint64_t beside, const char *path, int replacing, uint64_t *guid, struct zp_why *why)
{
	spa_t *spa = pool->spa;
	struct zp_resync nobody = { NULL, NULL, { 0 }, 0 };
	nvlist_t *leg = fnvlist_alloc(), *root = fnvlist_alloc();

	wait_for_no_scan(pool, &nobody);
	fnvlist_add_string(leg, ZPOOL_CONFIG_TYPE, VDEV_TYPE_DISK);
	fnvlist_add_string(leg, ZPOOL_CONFIG_PATH, path);
	fnvlist_add_uint64(leg, ZPOOL_CONFIG_WHOLE_DISK, 0);
	fnvlist_add_uint64(leg, ZPOOL_CONFIG_ASHIFT, 12);
	fnvlist_add_uint64(leg, ZPOOL_CONFIG_IS_LOG, 0);
	fnvlist_add_string(root, ZPOOL_CONFIG_TYPE, VDEV_TYPE_ROOT);
	fnvlist_add_nvlist_array(root, ZPOOL_CONFIG_CHILDREN, (const nvlist_t * const *)&leg, 1);
	pool->attach_txg = spa_last_synced_txg(spa) + 1;	/* the new leg misses this one too */
	int error = spa_vdev_attach(spa, beside, root, replacing, B_FALSE);
	fnvlist_free(leg);
	fnvlist_free(root);
	if (error != 0) {
		return (zp_explain(why, error, "OpenZFS cannot %s leg %llu: %s", replacing ? "replace" : "attach a leg beside",
		    (u_longlong_t)beside, error == EOVERFLOW ? "the new drive is too small" : strerror(error)));
	}
	*guid = 0;
	int capacity = zp_pool_leaves(pool, NULL, 0);
	struct zp_leaf *leaves = calloc(capacity + 1, sizeof (*leaves));
	int count = MIN(zp_pool_leaves(pool, leaves, capacity), capacity);
	for (int i = 0; i < count; i++) {
		if (strcmp(leaves[i].path, path) == 0)
			*guid = leaves[i].guid;
	}
	free(leaves);
	return (*guid != 0 ? 0 : zp_explain(why, ENODEV, "the new leg %s is not in the pool", path));
}

int
zp_leg_finish_attach(zp_pool *pool, uint64_t guid, struct zp_resync *resync, struct zp_why *why)
{
	spa_t *spa = pool->spa;
	dsl_pool_t *dp = spa_get_dsl(spa);
	int error;

	/* The attach has asked for a resilver; until its record reaches the attach it has not been set up. */
	hrtime_t give_up = gethrtime() + SEC2NSEC(20);
	for (;;) {
		boolean_t begun = dp->dp_scan->scn_phys.scn_max_txg > pool->attach_txg;
		boolean_t busy = dsl_scan_resilvering(dp) || dsl_scan_resilver_scheduled(dp);
		if (begun && !busy)
			break;
		if (!begun && !busy && gethrtime() > give_up)
			break;
		report(pool, resync);
		(void) usleep(POLL_US);
	}
	txg_wait_synced(dp, 0);
	report(pool, resync);
	/* An attach seeds everything, from the first txg on. */
	error = scan_covers(spa, TXG_INITIAL, pool->attach_txg, why);
	if (error == 0)
		error = legs_are_well(spa, &guid, 1, why);
	if (error == 0) {
		/* A replaced leg leaves by itself, a moment later. */
		for (boolean_t replacing = B_TRUE; replacing; ) {
			spa_config_enter(spa, SCL_CONFIG, FTAG, RW_READER);
			vdev_t *vd = spa_lookup_by_guid(spa, guid, B_FALSE);
			replacing = vd != NULL && vd->vdev_parent->vdev_ops == &vdev_replacing_ops;
			spa_config_exit(spa, SCL_CONFIG, FTAG);
			if (replacing) {
				spa_async_request(spa, SPA_ASYNC_RESILVER_DONE);
				txg_wait_synced(dp, 0);
				(void) usleep(POLL_US);
			}
		}
		txg_wait_synced(dp, 0);
	}
	resync->accepted = error == 0;
	return (0);
}

int
zp_leg_detach(zp_pool *pool, uint64_t guid, struct zp_why *why)
{
	int error = spa_vdev_detach(pool->spa, guid, 0, B_FALSE);
	if (error != 0)
		return (zp_explain(why, error, "OpenZFS cannot detach leg %llu: %s", (u_longlong_t)guid,
		    error == EBUSY ? "it holds the last good copy of something" : strerror(error)));
	return (0);
}

int
zp_mirrors_add(zp_pool *pool, const struct zp_mirror_spec *mirrors, int count, struct zp_why *why)
{
	nvlist_t *tree = zp_mirror_tree(mirrors, count);
	int error = spa_vdev_add(pool->spa, tree, B_FALSE);
	fnvlist_free(tree);
	if (error != 0)
		return (zp_explain(why, error, "OpenZFS cannot add the mirrors to pool %s: %s", pool->name, strerror(error)));
	return (0);
}

/*
 * Not by spa_scan(): it opens every leg again first, as one step, and no log block is written meanwhile, so that every client
 * waits for the labels of all legs.  A leg that does not answer is the owner's business, at any time.  (A scrub that a stock
 * `zpool` paused goes on its way.)
 */
int
zp_scrub_start(zp_pool *pool, struct zp_why *why)
{
	spa_t *spa = pool->spa;
	setup_sync_arg_t scrub = { .func = POOL_SCAN_SCRUB };

	txg_wait_synced(spa_get_dsl(spa), 0);	/* a scrub leaves out what its first txg wrote: nothing from before the command */
	int error = dsl_scan_is_paused_scrub(spa_get_dsl(spa)->dp_scan) ? spa_scan(spa, POOL_SCAN_SCRUB) :
	    dsl_sync_task(spa_name(spa), dsl_scan_setup_check, dsl_scan_setup_sync, &scrub, 0, ZFS_SPACE_CHECK_EXTRA_RESERVED);
	if (error != 0)
		return (zp_explain(why, error, "OpenZFS cannot start a scrub of pool %s: %s", pool->name,
		    error == EBUSY ? "a scrub or resync is running" : strerror(error)));
	return (0);
}

int
zp_scan_cancel(zp_pool *pool, struct zp_why *why)
{
	int error = spa_scan_stop(pool->spa);
	if (error != 0)
		return (zp_explain(why, error, "there is no scrub of pool %s to cancel", pool->name));
	return (0);
}
