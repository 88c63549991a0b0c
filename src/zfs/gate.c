/*
 * The embedded OpenZFS: our leaf driver in the place of vdev_disk_ops, and the gate over it.
 *
 * io_start hands the command to the C++ driver, which gives it to the leg's BlockDevice on the reactor; zp_zio_done() completes it.
 * The data is copied once, on OpenZFS's own threads: a command must be failed upward while its device, which does not answer, still
 * owns the buffer.  No lock of ours is held across a call of OpenZFS.
 */
#include "zfs/zfs_internal.h"

#include <sys/mman.h>

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
