/*
 * The embedded OpenZFS 2.3.2, first part: starting the library, and a pool's create, export and end.
 */
#include "zfs/zfs_internal.h"

#include <link.h>
#include <sys/mman.h>
#include <sys/random.h>

extern uint64_t zfs_arc_max, zfs_arc_min;
extern void arc_tuning_update(boolean_t verbose);
extern uint64_t zfs_dirty_data_max, zfs_dirty_data_max_max, zfs_wrlog_data_max;
extern uint64_t zfs_multihost_interval;
extern uint_t zfs_multihost_import_intervals, zfs_multihost_fail_intervals;
extern uint_t zfs_txg_timeout;
extern uint_t zfs_vdev_max_active, zfs_vdev_async_read_max_active, zfs_vdev_async_write_max_active;
extern uint_t zfs_vdev_async_write_active_min_dirty_percent, zfs_vdev_async_write_active_max_dirty_percent;
extern uint_t zfs_delay_min_dirty_percent;
extern uint64_t zfs_delay_scale;
extern int zfs_flags, zfs_nocacheflush, zfs_scan_suspend_progress;
extern uint_t spa_slop_shift;
extern uint_t spa_asize_inflation;
extern char *spa_config_path;

/* Debug and other builds differ in these (seen: abd_t 96 or 232 bytes). */
_Static_assert(sizeof (abd_t) == 232, "libzpool is laid out otherwise");
_Static_assert(sizeof (zfs_refcount_t) == 128, "libzpool is laid out otherwise");
_Static_assert(sizeof (spa_t) == 7592, "libzpool is laid out otherwise");
_Static_assert(sizeof (objset_t) == 1440, "libzpool is laid out otherwise");
_Static_assert(sizeof (dsl_pool_t) == 2344, "libzpool is laid out otherwise");

int
zp_explain(struct zp_why *why, int error, const char *format, ...)
{
	if (why != NULL) {
		va_list args;
		va_start(args, format);
		(void) vsnprintf(why->text, sizeof (why->text), format, args);
		va_end(args);
	}
	return (error);
}

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

#ifdef ZPAIR_MUTATIONS
enum zp_mutation zp_active_mutation = ZP_MUTATION_NONE;
#endif

/* ---- start */

static uint32_t host_id;

/* The library asks the executable first: this node's ZFS host id. */
uint32_t
zone_get_hostid(void *zone)
{
	(void) zone;
	return (host_id);
}

/*
 * In the library a random number decides, drawn from /dev/urandom at each allocation: one in a hundred says that memory is short
 * and shrinks the ARC, to test that.  Here zfs_arc_max bounds it.
 */
int64_t
arc_available_memory(void)
{
	return (INT64_MAX);
}

/* In the library each draw reads /dev/urandom, once for every block that leaves a cache. */
int
random_get_pseudo_bytes(uint8_t *bytes, size_t count)
{
	static __thread uint8_t stock[256];
	static __thread size_t left;

	while (count > 0) {
		if (left == 0) {
			VERIFY3S(getrandom(stock, sizeof (stock), 0), ==, sizeof (stock));	/* whole, up to 256 bytes */
			left = sizeof (stock);
		}
		size_t part = MIN(left, count);
		memcpy(bytes, stock + sizeof (stock) - left, part);
		left -= part;
		bytes += part;
		count -= part;
	}
	return (0);
}

/*
 * Every buffer in one piece.  The library cuts them into pages, as a kernel must, and then copies a whole block for each reader and
 * writer instead of sharing the cache's own.
 */
boolean_t
abd_size_alloc_linear(size_t size)
{
	(void) size;
	return (B_TRUE);
}

struct library {
	char build_id[64];
};

static int
find_build_id(struct dl_phdr_info *info, size_t size, void *context)
{
	struct library *library = context;
	(void) size;
	if (strstr(info->dlpi_name, "libzpool.so") == NULL)
		return (0);
	for (int i = 0; i < info->dlpi_phnum; i++) {
		if (info->dlpi_phdr[i].p_type != PT_NOTE)
			continue;
		const char *at = (const char *)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
		const char *end = at + info->dlpi_phdr[i].p_memsz;
		while (at + sizeof (ElfW(Nhdr)) <= end) {
			const ElfW(Nhdr) *note = (const void *)at;
			const unsigned char *id = (const unsigned char *)at + sizeof (*note) + P2ROUNDUP(note->n_namesz, 4);
			if (note->n_type == NT_GNU_BUILD_ID) {
				for (unsigned k = 0; k < note->n_descsz && k * 2 + 2 < sizeof (library->build_id); k++)
					(void) snprintf(library->build_id + k * 2, 3, "%02x", id[k]);
				return (1);
			}
			at = (const char *)id + P2ROUNDUP(note->n_descsz, 4);
		}
	}
	return (1);
}

/*
 * Private structures are used: only the very library that this was built against will do.
 */
static int
check_library(struct zp_why *why)
{
	struct library library = { "" };
	(void) dl_iterate_phdr(find_build_id, &library);
	if (strcmp(library.build_id, ZP_LIBZPOOL_BUILD_ID) != 0) {
		return (zp_explain(why, ENOTSUP, "libzpool here has the build id %s, this program was built against %s (OpenZFS 2.3.2): "
		    "install that package or rebuild zpair", library.build_id[0] != '\0' ? library.build_id : "(none)",
		    ZP_LIBZPOOL_BUILD_ID));
	}
	return (0);
}

/*
 * Labels carry SHA-256, and nobody outside a kernel makes libzpool look for a faster one than plain C: a third of a failover's
 * processor time.  Its slowest first: the last that this processor has is taken.
 */
static void
choose_sha256(void)
{
	static const char *const names[] = { "x64", "ssse3", "avx", "avx2", "shani", "armv7", "neon", "armv8-ce" };

	for (size_t i = 0; i < sizeof (names) / sizeof (names[0]); i++)
		(void) zfs_impl_get_ops("sha256")->setname(names[i]);
}

void
zp_engine_limit(uint64_t arc_bytes, uint64_t dirty_bytes, uint64_t log_bytes)
{
	static boolean_t runs = B_FALSE;

	zfs_arc_min = MIN(arc_bytes / 2, 32ULL << 20);
	/* Dirty data lives in the ARC, and writers are stopped (for a whole txg) when it takes half of it: room for both. */
	zfs_arc_max = MAX(arc_bytes, 64ULL << 20) + dirty_bytes;
	zfs_dirty_data_max = zfs_dirty_data_max_max = MAX(dirty_bytes, 16ULL << 20);
	/*
	 * A txg is pushed when its own log gets longer than 15 % of this, and writers wait when all live logs together reach it:
	 * with at most three txgs unsynced the live log stays near log_bytes.
	 */
	zfs_wrlog_data_max = MAX(log_bytes * 2, 16ULL << 20);
	if (runs)
		arc_tuning_update(B_FALSE);
	runs = B_TRUE;
}

int
zp_engine_start(const struct zp_engine_options *options, struct zp_why *why)
{
	static boolean_t started = B_FALSE;
	static char cache_file[PATH_MAX];

	if (started)
		return (zp_explain(why, EEXIST, "OpenZFS starts once in a process"));
	if (options->zfs_host_id == 0)
		return (zp_explain(why, EINVAL, "a node's ZFS host id must not be 0"));
	if (options->config_folder[0] != '/')
		return (zp_explain(why, EINVAL, "the engine's config folder %s must be absolute", options->config_folder));
	int error = check_library(why);
	if (error != 0)
		return (error);
	started = B_TRUE;

	host_id = options->zfs_host_id;
	(void) snprintf(cache_file, sizeof (cache_file), "%s/zpool.cache", options->config_folder);
	spa_config_path = cache_file;		/* never /etc/zfs/zpool.cache; and cachefile=none, so it is not written */
	zfs_flags = 0;				/* the library's assertions stay on, its self-verification is too slow */
	zp_engine_limit(options->arc_bytes, options->dirty_bytes, options->log_bytes);
	spa_asize_inflation = 6;		/* worst size of a write in the pool: 24 counts in raidz, which a pool here never has */
	zfs_txg_timeout = 1;			/* bounds the replay */
	zfs_vdev_direct_write_verify = 0;	/* nobody else can change a buffer of ours meanwhile */
	zfs_multihost_fail_intervals = 0;	/* a pause must not suspend the pool: the fence guards it */
	zp_gate_install();
	zp_pipeline_install();
	kernel_init(SPA_MODE_READ | SPA_MODE_WRITE);
	zp_partial_install();
	choose_sha256();
	/* arc_init() computes its own when it dislikes ours; say it again now that it runs. */
	zp_engine_limit(options->arc_bytes, options->dirty_bytes, options->log_bytes);
	return (0);
}

/* ---- tunables: those that the packaged library exports, and ours */

int zp_durable_log_writes = 1;

#define	T(name, unit, least, most, meaning) { { #name, unit, meaning, least, most }, &name, sizeof (name) }
static const struct {
	struct zp_tunable about;
	void *at;
	size_t size;
} tunables[] = {
	T(zfs_arc_max, "bytes", 64ULL << 20, UINT64_MAX, "largest read cache (ARC); does not bound the process alone"),
	T(zfs_arc_min, "bytes", 32ULL << 20, UINT64_MAX, "smallest read cache; an arc_max below it is ignored"),
	T(zfs_dirty_data_max, "bytes", 16ULL << 20, 1ULL << 40, "unsynced data at which writers are held"),
	T(zfs_wrlog_data_max, "bytes", 16ULL << 20, 1ULL << 40, "live log at which writers are held; a txg is pushed at 15 % of it"),
	T(zfs_txg_timeout, "seconds", 1, 60, "longest time between two transaction groups"),
	T(zfs_vdev_max_active, "commands", 1, 100000, "commands in flight on one leg, all kinds"),
	T(zfs_vdev_async_read_max_active, "commands", 1, 1000, "prefetch and resync reads in flight on one leg"),
	T(zfs_vdev_async_write_max_active, "commands", 1, 1000, "txg writes in flight on one leg when there is much dirty data"),
	T(zfs_vdev_async_write_active_min_dirty_percent, "percent", 0, 100, "dirty data below which few txg writes are in flight"),
	T(zfs_vdev_async_write_active_max_dirty_percent, "percent", 0, 100, "dirty data above which most txg writes are in flight"),
	T(zfs_delay_min_dirty_percent, "percent", 1, 100, "dirty data from which writers are slowed down"),
	T(zfs_delay_scale, "nanoseconds", 0, 1ULL << 40, "how steeply writers are slowed down"),
	T(zfs_multihost_interval, "milliseconds", 100, 1000000, "how often the pool says that it is in use"),
	T(zfs_multihost_import_intervals, "intervals", 1, 100, "how long a stock import watches for another user"),
	T(zfs_multihost_fail_intervals, "intervals", 0, 0, "0: a pause never suspends the pool"),
	T(spa_slop_shift, "shift", 1, 31, "space kept free: 1 / 2^shift of the pool"),
	T(zfs_scan_suspend_progress, "switch", 0, 1, "1 holds scrub and resync (for tests)"),
	T(zp_direct_writes, "switch", 0, 1, "1: whole blocks of large writes go to the legs past the cache"),
	T(zp_direct_reads, "switch", 0, 1, "1: whole blocks of large reads that no cache holds come past it"),
	T(zp_durable_log_writes, "switch", 0, 1, "1: a log write is durable by itself (FUA) where it can be, instead of written, then flushed"),
};
#undef T

int
zp_tunable_count(void)
{
	return (sizeof (tunables) / sizeof (tunables[0]));
}

const struct zp_tunable *
zp_tunable_at(int index)
{
	return (&tunables[index].about);
}

uint64_t
zp_tunable_get(int index)
{
	if (tunables[index].size == sizeof (uint64_t))
		return (*(volatile uint64_t *)tunables[index].at);
	return (*(volatile uint32_t *)tunables[index].at);
}

void
zp_tunable_set(int index, uint64_t value)
{
	if (tunables[index].size == sizeof (uint64_t))
		*(volatile uint64_t *)tunables[index].at = value;
	else
		*(volatile uint32_t *)tunables[index].at = (uint32_t)value;
	if (tunables[index].at == &zfs_arc_max || tunables[index].at == &zfs_arc_min)
		arc_tuning_update(B_FALSE);	/* nothing else looks at them again */
}

/* ---- pools: small helpers */

#define	ZP_HOLD	"zpair"

/*
 * Pointers that must lead back to where they came from: catches structures that are laid out otherwise than our headers say.
 */
static void
check_layout(spa_t *spa)
{
	dsl_pool_t *dp = spa->spa_dsl_pool;
	vdev_t *root = spa->spa_root_vdev;

	if (root->vdev_spa != spa || dp->dp_spa != spa || dp->dp_scan->scn_dp != dp ||
	    dp->dp_meta_objset->os_spa != spa || root->vdev_children == 0 ||
	    root->vdev_child[0]->vdev_parent != root || root->vdev_child[0]->vdev_top != root->vdev_child[0])
		zp_die("libzpool's structures are laid out otherwise than this program was built for");
}

int
zp_pool_hold(const char *name, zp_pool **poolp, struct zp_why *why)
{
	spa_t *spa;
	int error = spa_open(name, &spa, ZP_HOLD);
	if (error != 0)
		return (zp_explain(why, error, "cannot open pool %s: %s", name, strerror(error)));
	check_layout(spa);
	/* A suspended pool acknowledges nothing for ever: it shall be a dead process (in memory only, the property stays). */
	spa->spa_failmode = ZIO_FAILURE_MODE_PANIC;
	zp_pool *pool = calloc(1, sizeof (*pool));
	pool->spa = spa;
	(void) snprintf(pool->name, sizeof (pool->name), "%s", name);
	*poolp = pool;
	return (0);
}

nvlist_t *
zp_mirror_tree(const struct zp_mirror_spec *mirrors, int count)
{
	nvlist_t *root = fnvlist_alloc();
	nvlist_t **tops = calloc(count, sizeof (*tops));

	for (int m = 0; m < count; m++) {
		const struct zp_mirror_spec *mirror = &mirrors[m];
		boolean_t is_log = strcmp(mirror->vdev_class, VDEV_ALLOC_BIAS_LOG) == 0;
		nvlist_t **legs = calloc(mirror->leg_count, sizeof (*legs));
		for (int l = 0; l < mirror->leg_count; l++) {
			legs[l] = fnvlist_alloc();
			fnvlist_add_string(legs[l], ZPOOL_CONFIG_TYPE, VDEV_TYPE_DISK);
			fnvlist_add_string(legs[l], ZPOOL_CONFIG_PATH, mirror->legs[l].path);
			fnvlist_add_uint64(legs[l], ZPOOL_CONFIG_WHOLE_DISK, 0);
			fnvlist_add_uint64(legs[l], ZPOOL_CONFIG_ASHIFT, 12);
			fnvlist_add_uint64(legs[l], ZPOOL_CONFIG_IS_LOG, is_log);
		}
		tops[m] = fnvlist_alloc();
		fnvlist_add_string(tops[m], ZPOOL_CONFIG_TYPE, VDEV_TYPE_MIRROR);
		fnvlist_add_uint64(tops[m], ZPOOL_CONFIG_ASHIFT, 12);
		fnvlist_add_uint64(tops[m], ZPOOL_CONFIG_IS_LOG, is_log);
		if (is_log || strcmp(mirror->vdev_class, VDEV_ALLOC_BIAS_SPECIAL) == 0 ||
		    strcmp(mirror->vdev_class, VDEV_ALLOC_BIAS_DEDUP) == 0)
			fnvlist_add_string(tops[m], ZPOOL_CONFIG_ALLOCATION_BIAS, mirror->vdev_class);
		fnvlist_add_nvlist_array(tops[m], ZPOOL_CONFIG_CHILDREN, (const nvlist_t * const *)legs, mirror->leg_count);
		for (int l = 0; l < mirror->leg_count; l++)
			fnvlist_free(legs[l]);
		free(legs);
	}
	fnvlist_add_string(root, ZPOOL_CONFIG_TYPE, VDEV_TYPE_ROOT);
	fnvlist_add_nvlist_array(root, ZPOOL_CONFIG_CHILDREN, (const nvlist_t * const *)tops, count);
	for (int m = 0; m < count; m++)
		fnvlist_free(tops[m]);
	free(tops);
	return (root);
}

/* Features that OpenZFS 2.1 knows: leaving zpair must not need a newer kernel module than a user is likely to have. */
static boolean_t
feature_is_wanted(int feature)
{
	switch (feature) {
	case SPA_FEATURE_ZILSAXATTR:
	case SPA_FEATURE_HEAD_ERRLOG:
	case SPA_FEATURE_BLAKE3:
	case SPA_FEATURE_BLOCK_CLONING:
	case SPA_FEATURE_AVZ_V2:
	case SPA_FEATURE_REDACTION_LIST_SPILL:
	case SPA_FEATURE_RAIDZ_EXPANSION:
	case SPA_FEATURE_FAST_DEDUP:
	case SPA_FEATURE_LONGNAME:
	case SPA_FEATURE_LARGE_MICROZAP:
		return (B_FALSE);
	default:
		return (spa_feature_table[feature].fi_zfs_mod_supported);
	}
}

int
zp_pool_create(const char *name, const struct zp_mirror_spec *mirrors, int count, const char *compression, zp_pool **pool,
    struct zp_why *why)
{
	nvlist_t *props = fnvlist_alloc();
	fnvlist_add_string(props, zpool_prop_to_name(ZPOOL_PROP_CACHEFILE), "none");
	fnvlist_add_uint64(props, zpool_prop_to_name(ZPOOL_PROP_MULTIHOST), 1);
	for (int i = 0; i < SPA_FEATURES; i++) {
		char feature[128];
		if (!feature_is_wanted(i))
			continue;
		(void) snprintf(feature, sizeof (feature), "feature@%s", spa_feature_table[i].fi_uname);
		fnvlist_add_uint64(props, feature, 0);
	}
	nvlist_t *tree = zp_mirror_tree(mirrors, count);
	int error = spa_create(name, tree, props, NULL, NULL);
	fnvlist_free(tree);
	fnvlist_free(props);
	if (error != 0)
		return (zp_explain(why, error, "OpenZFS cannot create pool %s: %s", name, strerror(error)));

	/* sync=always for all that it will hold (rule 2); nothing of the root is ever mounted, here or by a stock module. */
	error = dsl_prop_set_int(name, zfs_prop_to_name(ZFS_PROP_SYNC), ZPROP_SRC_LOCAL, ZFS_SYNC_ALWAYS);
	if (error == 0)
		error = dsl_prop_set_int(name, zfs_prop_to_name(ZFS_PROP_CANMOUNT), ZPROP_SRC_LOCAL, ZFS_CANMOUNT_OFF);
	if (error == 0)
		error = dsl_prop_set_string(name, zfs_prop_to_name(ZFS_PROP_MOUNTPOINT), ZPROP_SRC_LOCAL, "none");
	if (error != 0)
		zp_explain(why, error, "cannot set the properties of pool %s: %s", name, strerror(error));
	else
		error = zp_property_set(name, "compression", compression, why);
	if (error == 0)
		error = zp_pool_hold(name, pool, why);
	if (error != 0)
		(void) spa_destroy(name);
	return (error);
}

int
zp_pool_destroy(zp_pool *pool, struct zp_why *why)
{
	spa_close(pool->spa, ZP_HOLD);
	int error = spa_destroy(pool->name);
	if (error != 0) {
		VERIFY0(spa_open(pool->name, &pool->spa, ZP_HOLD));
		return (zp_explain(why, error, "OpenZFS cannot destroy pool %s: %s", pool->name, strerror(error)));
	}
	free(pool);
	return (0);
}

int
zp_pool_export(zp_pool *pool, int to_partner, struct zp_why *why)
{
	spa_close(pool->spa, ZP_HOLD);
	/*
	 * "hard force" syncs as the other, but leaves out to call the pool exported in all labels of all legs, and to write the space
	 * maps that are still a log, which the next import then reads.
	 */
	int error = spa_export(pool->name, NULL, B_FALSE, to_partner ? B_TRUE : B_FALSE);
	if (error != 0) {
		VERIFY0(spa_open(pool->name, &pool->spa, ZP_HOLD));
		return (zp_explain(why, error, "OpenZFS cannot export pool %s: %s", pool->name, strerror(error)));
	}
	free(pool);
	return (0);
}

uint64_t
zp_pool_last_synced_txg(const zp_pool *pool)
{
	return (spa_last_synced_txg(pool->spa));
}

void
zp_pool_wait_synced(zp_pool *pool)
{
	txg_wait_synced(spa_get_dsl(pool->spa), 0);
}

int
zp_pool_look(zp_pool *pool, struct zp_pool_stats *stats)
{
	spa_t *spa = pool->spa;
	pool_scan_stat_t scan;

	memset(stats, 0, sizeof (*stats));
	stats->guid = spa_guid(spa);
	stats->suspended = spa_suspended(spa);
	stats->last_synced_txg = spa_last_synced_txg(spa);
	stats->size_bytes = metaslab_class_get_dspace(spa_normal_class(spa));
	stats->allocated_bytes = metaslab_class_get_alloc(spa_normal_class(spa));
	/* It may read from disk, whose lock stands behind whoever waits to write the config: never under a config lock. */
	stats->data_errors = spa_approx_errlog_size(spa);
	spa_config_enter(spa, SCL_VDEV, FTAG, RW_READER);
	if (spa_scan_get_stats(spa, &scan) == 0 && scan.pss_func != POOL_SCAN_NONE) {
		stats->scan_kind = scan.pss_func == POOL_SCAN_RESILVER ? 1 : 2;
		stats->scan_state = scan.pss_state == DSS_SCANNING ? 1 : scan.pss_state == DSS_FINISHED ? 2 :
		    scan.pss_state == DSS_CANCELED ? 3 : 0;
		stats->scan_total_bytes = scan.pss_to_examine;
		stats->scan_done_bytes = MIN(scan.pss_issued + scan.pss_skipped, scan.pss_to_examine);
		stats->scan_repaired_bytes = scan.pss_processed;
		stats->scan_errors = scan.pss_errors;
		dsl_scan_phys_t *phys = &spa->spa_dsl_pool->dp_scan->scn_phys;
		stats->scan_min_txg = phys->scn_min_txg;
		stats->scan_max_txg = phys->scn_max_txg;
	}
	spa_config_exit(spa, SCL_VDEV, FTAG);
	return (0);
}

static int
add_leaves(vdev_t *vd, struct zp_leaf *leaves, int capacity, int count)
{
	if (!vd->vdev_ops->vdev_op_leaf) {
		for (uint64_t c = 0; c < vd->vdev_children; c++)
			count = add_leaves(vd->vdev_child[c], leaves, capacity, count);
		return (count);
	}
	if (vd->vdev_ops == &vdev_hole_ops || vd->vdev_ops == &vdev_indirect_ops)
		return (count);
	if (count < capacity) {
		struct zp_leaf *leaf = &leaves[count];
		vdev_stat_t stat;
		vdev_get_stats(vd, &stat);
		memset(leaf, 0, sizeof (*leaf));
		leaf->guid = vd->vdev_guid;
		leaf->mirror_guid = vd->vdev_top->vdev_guid;
		leaf->top_id = vd->vdev_top->vdev_id;
		(void) snprintf(leaf->path, sizeof (leaf->path), "%s", vd->vdev_path != NULL ? vd->vdev_path : "");
		leaf->state = vd->vdev_state;
		leaf->offline = vd->vdev_offline;
		leaf->replacing = vd->vdev_parent->vdev_ops == &vdev_replacing_ops;
		mutex_enter(&vd->vdev_dtl_lock);
		leaf->dtl_empty = zfs_range_tree_is_empty(vd->vdev_dtl[DTL_MISSING]);
		mutex_exit(&vd->vdev_dtl_lock);
		leaf->read_errors = stat.vs_read_errors;
		leaf->write_errors = stat.vs_write_errors;
		leaf->checksum_errors = stat.vs_checksum_errors;
		leaf->repaired_bytes = stat.vs_self_healed + stat.vs_scan_processed;
	}
	return (count + 1);
}

int
zp_pool_leaves(zp_pool *pool, struct zp_leaf *leaves, int capacity)
{
	spa_config_enter(pool->spa, SCL_CONFIG | SCL_VDEV, FTAG, RW_READER);
	int count = add_leaves(pool->spa->spa_root_vdev, leaves, capacity, 0);
	spa_config_exit(pool->spa, SCL_CONFIG | SCL_VDEV, FTAG);
	return (count);
}
