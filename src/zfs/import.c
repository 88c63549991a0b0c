/*
 * Labels, and the import of exactly the named legs (rule 7): what is looked for before OpenZFS writes anything, and where its
 * functions are ours.
 */
#include "zfs/zfs_internal.h"

#include <dlfcn.h>
#include <sys/vdev_removal.h>

/* ---- labels */

/*
 * The checksum of a block in a label: SHA-256 over the block, whose last field holds the block's own offset meanwhile.
 * `block` is changed and put back.
 */
static boolean_t
label_block_is_good(char *block, uint64_t size, uint64_t offset)
{
	zio_eck_t *eck = (zio_eck_t *)(block + size - sizeof (zio_eck_t));
	zio_cksum_t expected = eck->zec_cksum, verifier, actual;

	if (eck->zec_magic != ZEC_MAGIC)
		return (B_FALSE);
	ZIO_SET_CHECKSUM(&verifier, offset, 0, 0, 0);
	eck->zec_cksum = verifier;
	abd_t *abd = abd_get_from_buf(block, size);
	abd_checksum_sha256(abd, size, NULL, &actual);
	abd_free(abd);
	eck->zec_cksum = expected;
	return (ZIO_CHECKSUM_EQUAL(actual, expected));
}

/* The newest one: of those that look newer than what is known the good one with the highest txg (MMP writes several of one). */
static void
take_newest_uberblock(char *label, uint64_t label_offset, int shift, struct zp_label *out)
{
	uint64_t slot_size = 1ULL << shift, bad_txg = UINT64_MAX, bad_offset = 0;

	for (;;) {
		uint64_t best = 0, best_offset = 0;
		for (uint64_t at = 0; at + slot_size <= VDEV_UBERBLOCK_RING; at += slot_size) {
			uint64_t offset = offsetof(vdev_label_t, vl_uberblock) + at;
			const uberblock_t *ub = (const uberblock_t *)(label + offset);
			boolean_t tried = ub->ub_txg > bad_txg || (ub->ub_txg == bad_txg && offset <= bad_offset);
			if (ub->ub_magic == UBERBLOCK_MAGIC && ub->ub_txg > best && !tried) {
				best = ub->ub_txg;
				best_offset = offset;
			}
		}
		if (best <= out->best_uberblock_txg)
			return;
		if (label_block_is_good(label + best_offset, slot_size, label_offset + best_offset)) {
			out->best_uberblock_txg = best;
			return;
		}
		bad_txg = best;
		bad_offset = best_offset;
	}
}

static void
take_uberblocks(char *label, uint64_t label_offset, int shift, struct zp_label *out)
{
	uint64_t slot_size = 1ULL << shift;

	for (uint64_t at = 0; at + slot_size <= VDEV_UBERBLOCK_RING; at += slot_size) {
		uint64_t offset = offsetof(vdev_label_t, vl_uberblock) + at;
		const uberblock_t *ub = (const uberblock_t *)(label + offset);
		if (ub->ub_magic != UBERBLOCK_MAGIC || !label_block_is_good(label + offset, slot_size, label_offset + offset))
			continue;
		uint64_t txg = ub->ub_txg;
		int place = 0;
		while (place < out->uberblock_count && out->uberblock_txgs[place] < txg)
			place++;
		if ((place < out->uberblock_count && out->uberblock_txgs[place] == txg) || out->uberblock_count == ZP_UBERBLOCKS_MAX)
			continue;
		memmove(&out->uberblock_txgs[place + 1], &out->uberblock_txgs[place],
		    (out->uberblock_count - place) * sizeof (uint64_t));
		out->uberblock_txgs[place] = txg;
		out->uberblock_count++;
		out->best_uberblock_txg = MAX(out->best_uberblock_txg, txg);
	}
}

int
zp_label_parse(const void *const labels[4], uint64_t device_size, int all_uberblocks, struct zp_label *out)
{
	uint64_t psize = P2ALIGN_TYPED(device_size, (uint64_t)sizeof (vdev_label_t), uint64_t);
	uint64_t ashift = 12, best_txg = 0;
	nvlist_t *best = NULL;

	_Static_assert(sizeof (vdev_label_t) == ZP_LABEL_SIZE, "label size");
	memset(out, 0, sizeof (*out));
	for (int l = 0; l < VDEV_LABELS; l++) {
		uint64_t offset = l * sizeof (vdev_label_t) + (l < VDEV_LABELS / 2 ? 0 : psize - VDEV_LABELS * sizeof (vdev_label_t));
		vdev_phys_t *phys;
		nvlist_t *config;
		uint64_t txg = 0;
		if (labels[l] == NULL)
			continue;
		phys = (vdev_phys_t *)((char *)(uintptr_t)labels[l] + offsetof(vdev_label_t, vl_vdev_phys));
		if (!label_block_is_good((char *)phys, sizeof (*phys), offset + offsetof(vdev_label_t, vl_vdev_phys)))
			continue;
		if (nvlist_unpack(phys->vp_nvlist, sizeof (phys->vp_nvlist), &config, 0) != 0)
			continue;
		(void) nvlist_lookup_uint64(config, ZPOOL_CONFIG_POOL_TXG, &txg);
		if (best != NULL && txg <= best_txg) {
			nvlist_free(config);
			continue;
		}
		nvlist_free(best);
		best = config;
		best_txg = txg;
	}
	if (best == NULL)
		return (ENOENT);

	nvlist_t *tree = NULL;
	const char *name = "";
	uint64_t host = 0;
	(void) nvlist_lookup_string(best, ZPOOL_CONFIG_POOL_NAME, &name);
	(void) nvlist_lookup_uint64(best, ZPOOL_CONFIG_HOSTID, &host);
	(void) nvlist_lookup_uint64(best, ZPOOL_CONFIG_POOL_GUID, &out->pool_guid);
	(void) nvlist_lookup_uint64(best, ZPOOL_CONFIG_POOL_STATE, &out->pool_state);
	(void) nvlist_lookup_uint64(best, ZPOOL_CONFIG_GUID, &out->leg_guid);
	(void) nvlist_lookup_uint64(best, ZPOOL_CONFIG_TOP_GUID, &out->mirror_guid);
	(void) nvlist_lookup_uint64(best, ZPOOL_CONFIG_VDEV_CHILDREN, &out->top_count);
	if (nvlist_lookup_nvlist(best, ZPOOL_CONFIG_VDEV_TREE, &tree) == 0) {
		(void) nvlist_lookup_uint64(tree, ZPOOL_CONFIG_ID, &out->top_id);
		(void) nvlist_lookup_uint64(tree, ZPOOL_CONFIG_ASHIFT, &ashift);
	}
	(void) snprintf(out->pool_name, sizeof (out->pool_name), "%s", name);
	out->zfs_host_id = (uint32_t)host;
	out->label_txg = best_txg;
	out->nvlist = best;
	int shift = MIN(MAX(ashift, UBERBLOCK_SHIFT), MAX_UBERBLOCK_SHIFT);
	for (int l = 0; l < VDEV_LABELS; l++) {
		uint64_t offset = l * sizeof (vdev_label_t) + (l < VDEV_LABELS / 2 ? 0 : psize - VDEV_LABELS * sizeof (vdev_label_t));
		if (labels[l] != NULL)
			(all_uberblocks ? take_uberblocks : take_newest_uberblock)((char *)(uintptr_t)labels[l], offset, shift, out);
	}
	return (0);
}

void
zp_label_free(struct zp_label *label)
{
	nvlist_free(label->nvlist);
	label->nvlist = NULL;
}

/*
 * The config that spa_import() wants, from the newest label of each mirror.  NULL: a mirror is missing.
 */
static nvlist_t *
config_from_labels(struct zp_label *const *labels, int count, struct zp_why *why)
{
	struct zp_label *newest = labels[0];

	for (int i = 1; i < count; i++) {
		if (labels[i]->label_txg > newest->label_txg)
			newest = labels[i];
	}
	uint64_t tops = newest->top_count;
	if (tops == 0 || tops > 4096) {
		zp_explain(why, EINVAL, "the labels name %llu mirrors", (u_longlong_t)tops);
		return (NULL);
	}
	struct zp_label **best = calloc(tops, sizeof (*best));
	const nvlist_t **trees = calloc(tops, sizeof (*trees));
	nvlist_t *config = NULL;
	for (int i = 0; i < count; i++) {
		uint64_t id = labels[i]->top_id;
		if (id < tops && (best[id] == NULL || labels[i]->label_txg > best[id]->label_txg))
			best[id] = labels[i];
	}
	for (uint64_t id = 0; id < tops; id++) {
		if (best[id] == NULL) {
			zp_explain(why, ENXIO, "mirror %llu of %llu has no leg here", (u_longlong_t)id, (u_longlong_t)tops);
			goto out;
		}
		trees[id] = fnvlist_lookup_nvlist(best[id]->nvlist, ZPOOL_CONFIG_VDEV_TREE);
	}
	nvlist_t *root = fnvlist_alloc();
	fnvlist_add_string(root, ZPOOL_CONFIG_TYPE, VDEV_TYPE_ROOT);
	fnvlist_add_uint64(root, ZPOOL_CONFIG_ID, 0);
	fnvlist_add_uint64(root, ZPOOL_CONFIG_GUID, newest->pool_guid);
	fnvlist_add_nvlist_array(root, ZPOOL_CONFIG_CHILDREN, trees, tops);
	config = fnvlist_dup(newest->nvlist);
	fnvlist_add_nvlist(config, ZPOOL_CONFIG_VDEV_TREE, root);
	fnvlist_free(root);
	nvlist_t *policy = fnvlist_alloc();
	fnvlist_add_uint32(policy, ZPOOL_LOAD_REWIND_POLICY, ZPOOL_NEVER_REWIND);
	fnvlist_add_nvlist(config, ZPOOL_LOAD_POLICY, policy);
	fnvlist_free(policy);
	(void) nvlist_remove_all(config, ZPOOL_CONFIG_TOP_GUID);
	(void) nvlist_remove_all(config, ZPOOL_CONFIG_GUID);
out:
	free(best);
	free(trees);
	return (config);
}

/*
 * ---- what an import must not drop (rule 7), of one import at a time
 *
 * It is looked for before OpenZFS writes anything: whoever is refused later has moved the pool's txg, and the next try would find
 * the floor's txg among those that were imported whole.
 */

static struct {
	const struct zp_import_check *asked;	/* NULL: no import is under way */
	boolean_t *floor_found;			/* whose volume is there */
	boolean_t walked, some_inconsistent;
	pthread_mutex_t mutex;
	struct zp_why wrong;			/* the first thing */
} import_check = { .mutex = PTHREAD_MUTEX_INITIALIZER };

__attribute__((format(printf, 1, 2))) static int
note_wrong(const char *format, ...)
{
	va_list arguments;

	(void) pthread_mutex_lock(&import_check.mutex);
	if (import_check.wrong.text[0] == '\0') {
		va_start(arguments, format);
		(void) vsnprintf(import_check.wrong.text, sizeof (import_check.wrong.text), format, arguments);
		va_end(arguments);
	}
	(void) pthread_mutex_unlock(&import_check.mutex);
	return (zp_import_is_overridden() ? 0 : EPERM);
}

/* Whoever walks the volumes takes an error for the end of the list. */
static int
check_list_below(dsl_pool_t *dp, dsl_dataset_t *ds, const char *name)
{
	zap_cursor_t cursor;
	zap_attribute_t *entry = zap_attribute_alloc();
	int error;

	zap_cursor_init(&cursor, dp->dp_meta_objset, dsl_dir_phys(ds->ds_dir)->dd_child_dir_zapobj);
	while ((error = zap_cursor_retrieve(&cursor, entry)) == 0)
		zap_cursor_advance(&cursor);
	zap_cursor_fini(&cursor);
	zap_attribute_free(entry);
	return (error == ENOENT ? 0 : note_wrong("what lies below %s cannot be listed: logs there are lost without it", name));
}

static int
check_floors(spa_t *spa, dsl_dataset_t *ds, boolean_t has_log, const char *name)
{
	int error = 0;

	for (int i = 0; i < import_check.asked->floor_count; i++) {
		const struct zp_log_floor *floor = &import_check.asked->floors[i];
		if (floor->volume_guid != dsl_dataset_phys(ds)->ds_guid)
			continue;
		import_check.floor_found[i] = B_TRUE;
		if (floor->sequence >> 32 > spa->spa_uberblock.ub_txg && !has_log && !zp_mutated(ZP_FLOOR_IGNORED))
			error = note_wrong("volume %s has no log, but record %llu of txg %llu was committed", name,
			    (u_longlong_t)(uint32_t)floor->sequence, (u_longlong_t)(floor->sequence >> 32));
	}
	return (error);
}

/*
 * Whether a dataset is a volume, and has a log: from its root block.  To open it costs a millisecond, for its many properties.  ENOTSUP:
 * it must be opened to know.
 */
static int
read_root(spa_t *spa, dsl_dataset_t *ds, boolean_t *is_volume, boolean_t *has_log)
{
	zbookmark_phys_t mark;
	arc_flags_t flags = ARC_FLAG_WAIT;
	arc_buf_t *buffer = NULL;

	rrw_enter(&ds->ds_bp_rwlock, RW_READER, FTAG);
	blkptr_t root = *dsl_dataset_get_blkptr(ds);
	rrw_exit(&ds->ds_bp_rwlock, FTAG);
	if (BP_IS_HOLE(&root) || BP_SHOULD_BYTESWAP(&root) || BP_IS_PROTECTED(&root))
		return (ENOTSUP);
	SET_BOOKMARK(&mark, ds->ds_object, ZB_ROOT_OBJECT, ZB_ROOT_LEVEL, ZB_ROOT_BLKID);
	int error = arc_read(NULL, spa, &root, arc_getbuf_func, &buffer, ZIO_PRIORITY_SYNC_READ, ZIO_FLAG_CANFAIL, &flags, &mark);
	if (error != 0)
		return (error == ENOTSUP ? EIO : error);
	const objset_phys_t *phys = buffer->b_data;
	*is_volume = phys->os_type == DMU_OST_ZVOL;
	*has_log = !BP_IS_HOLE(&phys->os_zil_header.zh_log);
	arc_buf_destroy(buffer, &buffer);
	return (0);
}

static int
look_at_root(spa_t *spa, dsl_dataset_t *ds, boolean_t *is_volume, boolean_t *has_log)
{
	objset_t *os;
	int error = read_root(spa, ds, is_volume, has_log);

	if (error == ENOTSUP) {
		error = dmu_objset_from_ds(ds, &os);
		if (error == 0) {
			*is_volume = dmu_objset_type(os) == DMU_OST_ZVOL;
			*has_log = !BP_IS_HOLE(&dmu_objset_zil(os)->zl_header->zh_log);
		}
	}
	return (error);
}

static void
note_volume(const char *name, uint64_t guid, boolean_t has_log)
{
	(void) pthread_mutex_lock(&import_check.mutex);
	import_check.asked->found(import_check.asked->context, name, guid, has_log);
	(void) pthread_mutex_unlock(&import_check.mutex);
}

/*
 * OpenZFS asks this for each dataset; ours stands before its own, which calls a log good whose dataset cannot be read.  Such a log
 * is then not claimed: its blocks count as free, silently.  On several threads at once.
 */
int
zil_check_log_chain(dsl_pool_t *dp, dsl_dataset_t *ds, void *tx)
{
	static int (*real)(dsl_pool_t *, dsl_dataset_t *, void *);
	char name[ZFS_MAX_DATASET_NAME_LEN];
	boolean_t is_volume, has_log;
	objset_t *os;

	if (real == NULL)
		real = (int (*)(dsl_pool_t *, dsl_dataset_t *, void *))dlsym(RTLD_NEXT, "zil_check_log_chain");
	VERIFY3P(real, !=, NULL);
	if (import_check.asked == NULL)
		return (real(dp, ds, tx));
	dsl_dataset_name(ds, name);
	if (dsl_dataset_phys(ds)->ds_flags & DS_FLAG_INCONSISTENT)
		__atomic_store_n(&import_check.some_inconsistent, B_TRUE, __ATOMIC_RELAXED);
	int error = check_list_below(dp, ds, name);
	if (error != 0)
		return (error);
	if (look_at_root(dp->dp_spa, ds, &is_volume, &has_log) != 0 || (has_log && dmu_objset_from_ds(ds, &os) != 0)) {
		note_volume(name, 0, B_FALSE);
		return (note_wrong("volume %s cannot be read: its log is lost without it", name));
	}
	if (is_volume && !(dsl_dataset_phys(ds)->ds_flags & DS_FLAG_INCONSISTENT))	/* that one will be destroyed */
		note_volume(name, dsl_dataset_phys(ds)->ds_guid, has_log);
	error = check_floors(dp->dp_spa, ds, has_log, name);
	return (error != 0 || !has_log ? error : real(dp, ds, tx));
}

/* A claim changes a dataset that has a log, and nothing else here: there is no checkpoint to go back to, and no log is dropped. */
static int
claim_if_it_has_a_log(dsl_pool_t *dp, dsl_dataset_t *ds, void *tx)
{
	boolean_t is_volume, has_log;

	if (spa_get_log_state(dp->dp_spa) != SPA_LOG_CLEAR && dp->dp_spa->spa_uberblock.ub_checkpoint_txg == 0 &&
	    look_at_root(dp->dp_spa, ds, &is_volume, &has_log) == 0 && !has_log)
		return (0);
	return (zil_claim(dp, ds, tx));
}

/*
 * The walks that ask these.  A floor whose volume is nowhere refuses.  One of a volume that was destroyed is not meant: its records are
 * older than its end, which is in a txg of the pool (volumes are closed first, and an end waits for its txg).
 */
int
dmu_objset_find_dp(dsl_pool_t *dp, uint64_t dir, int func(dsl_pool_t *, dsl_dataset_t *, void *), void *arg, int flags)
{
	static int (*real)(dsl_pool_t *, uint64_t, int (*)(dsl_pool_t *, dsl_dataset_t *, void *), void *, int);

	if (real == NULL)
		real = (__typeof__(real))dlsym(RTLD_NEXT, "dmu_objset_find_dp");
	VERIFY3P(real, !=, NULL);
	if (import_check.asked == NULL)
		return (real(dp, dir, func, arg, flags));
	int error = real(dp, dir, func == zil_claim ? claim_if_it_has_a_log : func, arg, flags);
	if (func != zil_check_log_chain)
		return (error);
	import_check.walked = B_TRUE;
	for (int i = 0; i < import_check.asked->floor_count && error == 0; i++) {
		const struct zp_log_floor *floor = &import_check.asked->floors[i];
		uint64_t txg = floor->sequence >> 32;
		if (!import_check.floor_found[i] && txg > dp->dp_spa->spa_uberblock.ub_txg && !zp_mutated(ZP_FLOOR_IGNORED))
			error = note_wrong("txg %llu was committed to the log of the volume of guid %llu, which is not in the pool",
			    (u_longlong_t)txg, (u_longlong_t)floor->volume_guid);
	}
	return (error);
}

/* An import ends with a walk that destroys what a broken receive left; one after the other, each opened: not when there is none. */
int
dmu_objset_find(const char *name, int func(const char *, void *), void *arg, int flags)
{
	static int (*real)(const char *, int (*)(const char *, void *), void *, int);

	if (real == NULL)
		real = (__typeof__(real))dlsym(RTLD_NEXT, "dmu_objset_find");
	VERIFY3P(real, !=, NULL);
	if (import_check.asked != NULL && func == dsl_destroy_inconsistent && import_check.walked && !import_check.some_inconsistent)
		return (0);
	return (real(name, func, arg, flags));
}

/*
 * ---- the one update of the labels that an import makes
 *
 * It writes all labels of all legs: 10 MB for 12 mirrors, and 0.1 s for whoever waits.  The library makes three in an import, two of them for
 * its cache file, which is not used here.  Ours makes one, or none when the labels say already what counts: that the pool is active, and
 * one of our nodes has it.  What changes a leg or a mirror updates them then as always.
 */

/* That are new, or have become larger. */
static boolean_t
some_mirror_has_new_space(spa_t *spa)
{
	vdev_t *root = spa->spa_root_vdev;
	boolean_t some = B_FALSE;

	spa_config_enter(spa, SCL_CONFIG, FTAG, RW_READER);
	for (uint64_t c = 0; c < root->vdev_children; c++) {
		const vdev_t *mirror = root->vdev_child[c];
		some |= mirror->vdev_ms_array == 0 || (mirror->vdev_asize >> mirror->vdev_ms_shift) > mirror->vdev_ms_count;
	}
	spa_config_exit(spa, SCL_CONFIG, FTAG);
	return (some);
}

/* What 2.3.2 does for them, once their config is synced; but not for none: the lock excludes writes, which a held probe prolongs. */
static void
set_up_new_space(spa_t *spa)
{
	vdev_t *root = spa->spa_root_vdev;

	if (!some_mirror_has_new_space(spa))
		return;
	spa_config_enter(spa, SCL_ALL, FTAG, RW_WRITER);
	uint64_t txg = spa_last_synced_txg(spa) + 1;
	for (uint64_t c = 0; c < root->vdev_children; c++) {
		vdev_t *mirror = root->vdev_child[c];
		if (!vdev_is_concrete(mirror) || (mirror->vdev_islog && mirror->vdev_removing))
			continue;
		if (mirror->vdev_ms_array == 0)
			vdev_metaslab_set_size(mirror);
		vdev_expand(mirror, txg);
	}
	spa_config_exit(spa, SCL_ALL, FTAG);
	txg_wait_synced(spa->spa_dsl_pool, txg);
}

void
spa_config_update(spa_t *spa, int what)
{
	VERIFY(MUTEX_HELD(&spa_namespace_lock));
	if (what == SPA_CONFIG_UPDATE_POOL) {
		mutex_enter(&spa->spa_async_lock);
		spa->spa_async_tasks &= ~SPA_ASYNC_CONFIG_UPDATE;	/* this is what was asked for */
		mutex_exit(&spa->spa_async_lock);
	}
	if (what == SPA_CONFIG_UPDATE_POOL && !(import_check.asked != NULL && import_check.asked->labels_stand)) {
		spa_config_enter(spa, SCL_ALL, FTAG, RW_WRITER);
		uint64_t txg = spa_last_synced_txg(spa) + 1;
		vdev_config_dirty(spa->spa_root_vdev);
		spa_config_exit(spa, SCL_ALL, FTAG);
		txg_wait_synced(spa->spa_dsl_pool, txg);
	}
	set_up_new_space(spa);
}

boolean_t
zp_import_is_overridden(void)
{
	return (import_check.asked != NULL && !import_check.asked->enforce);
}

int
zp_pool_import(const char *name, struct zp_label *const *labels, int count, const struct zp_import_check *check, zp_pool **pool,
    uint64_t *uberblock_txg, struct zp_why *why)
{
	nvlist_t *config = config_from_labels(labels, count, why);
	if (config == NULL)
		return (ENXIO);
	nvlist_t *props = fnvlist_alloc();
	fnvlist_add_string(props, zpool_prop_to_name(ZPOOL_PROP_CACHEFILE), "none");
	import_check.floor_found = calloc(MAX(check->floor_count, 1), sizeof (boolean_t));
	import_check.walked = import_check.some_inconsistent = B_FALSE;
	import_check.wrong.text[0] = '\0';
	import_check.asked = check;
	/* The fence has proven that nobody else uses the pool; the multihost check would only cost 20 s. */
	int error = spa_import((char *)(uintptr_t)name, config, props, ZFS_IMPORT_SKIP_MMP);
	import_check.asked = NULL;
	free(import_check.floor_found);
	fnvlist_free(props);
	fnvlist_free(config);
	if (error != 0 && import_check.wrong.text[0] != '\0')
		return (zp_explain(why, EPERM, "rule 7: %s: nothing is imported without an operator's word (zpair pool import "
		    "--accept-data-loss)", import_check.wrong.text));
	if (error != 0)
		return (zp_explain(why, error, "OpenZFS cannot import pool %s: %s", name, strerror(error)));
	(void) zp_explain(why, 0, "%s", import_check.wrong.text);
	error = zp_pool_hold(name, pool, why);
	if (error != 0)
		return (error);
	(*pool)->overridden = !check->enforce;
	spa_t *spa = (*pool)->spa;
	/* spa_first_txg is the first that this import may write; the uberblock that it began from is the one before. */
	*uberblock_txg = (*pool)->import_txg = spa->spa_first_txg - 1;
	return (0);
}
