/*
 * The embedded OpenZFS: a leg's life in its pool.
 *
 * Return of legs (rule 8).  A leg that comes online while a resilver runs may be declared complete without having been
 * copied: the end of a resilver empties the missing-txg list of every healthy leg up to the scan's maximum, whatever the scan
 * visited.  So: no scan running; every returning leg seeded from the same `since`, synced, online, with the library kept from
 * asking for a resilver until the last is; one more txg synced; our own resilver; and then only the scan's own record is
 * believed.
 */
#include "zfs/zfs_internal.h"

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
