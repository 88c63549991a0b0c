/*
 * The embedded OpenZFS: volumes, snapshots and clones as datasets, which come, go, change and are looked at.  A volume is laid out as
 * the kernel's zvols are: object 1 the data, object 2 a ZAP with "size".
 */
#include "zfs/zfs_internal.h"

struct layout {
	uint64_t size;
	uint32_t block_size;
};

static void
lay_out(objset_t *os, void *context, cred_t *cred, dmu_tx_t *tx)
{
	struct layout *layout = context;
	(void) cred;
	VERIFY0(dmu_object_claim(os, DATA_OBJECT, DMU_OT_ZVOL, layout->block_size, DMU_OT_NONE, 0, tx));
	VERIFY0(zap_create_claim(os, PROPERTY_OBJECT, DMU_OT_ZVOL_PROP, DMU_OT_NONE, 0, tx));
	VERIFY0(zap_update(os, PROPERTY_OBJECT, "size", 8, 1, &layout->size, tx));
}

/*
 * What a full volume takes: its data and the indirect blocks over it, which OpenZFS stores in one copy more (as libzfs
 * reckons for `zfs create -V`).
 */
static uint64_t
full_size(uint64_t size, uint64_t block_size)
{
	uint64_t indirect = 7;
	for (uint64_t blocks = size / block_size; blocks > 1; ) {
		blocks = (blocks + 127) / 128;
		indirect += blocks;
	}
	return (size + indirect * 2 * (1ULL << DN_MAX_INDBLKSHIFT));
}

int
zp_property_set(const char *name, const char *property, const char *value, struct zp_why *why)
{
	zfs_prop_t prop = zfs_name_to_prop(property);
	uint64_t number;
	int error;

	switch (prop) {
	case ZFS_PROP_SYNC:
		return (zp_explain(why, EPERM, "sync is always (rule 2): it cannot be set on %s", name));
	case ZFS_PROP_COMPRESSION:
	case ZFS_PROP_LOGBIAS:
	case ZFS_PROP_PRIMARYCACHE:
	case ZFS_PROP_CHECKSUM:
	case ZFS_PROP_REDUNDANT_METADATA:
		break;
	default:
		return (zp_explain(why, EINVAL, "property %s cannot be set here", property));
	}
	if (zfs_prop_string_to_index(prop, value, &number) != 0)
		return (zp_explain(why, EINVAL, "%s is no value of property %s", value, property));
	if (prop == ZFS_PROP_CHECKSUM && number == ZIO_CHECKSUM_OFF)
		return (zp_explain(why, EPERM, "checksums stay on"));
	error = dsl_prop_set_int(name, property, ZPROP_SRC_LOCAL, number);
	if (error != 0)
		return (zp_explain(why, error, "cannot set %s=%s on %s: %s", property, value, name, strerror(error)));
	return (0);
}

int
zp_note_set(const char *name, const char *note, const char *value, struct zp_why *why)
{
	if (strlen(value) >= ZP_NOTE_SIZE)
		return (zp_explain(why, EINVAL, "%s on %s would be longer than %d bytes", note, name, ZP_NOTE_SIZE - 1));
	int error = dsl_prop_set_string(name, note, ZPROP_SRC_LOCAL, value);
	if (error != 0)
		return (zp_explain(why, error, "cannot set %s on %s: %s", note, name, strerror(error)));
	return (0);
}

int
zp_note_get(const char *name, const char *note, char value[ZP_NOTE_SIZE], struct zp_why *why)
{
	int error = dsl_prop_get(name, note, 1, ZP_NOTE_SIZE, value, NULL);
	if (error == ENOENT) {
		value[0] = '\0';
		return (0);
	}
	if (error != 0)
		return (zp_explain(why, error, "cannot read %s of %s: %s", note, name, strerror(error)));
	return (0);
}

/* Thick: all that the volume may ever hold is set aside for it. */
static int
reserve(const char *name, uint64_t size, uint64_t block_size, struct zp_why *why)
{
	uint64_t bytes = full_size(size, block_size);
	int error = dsl_dataset_set_refreservation(name, ZPROP_SRC_LOCAL, bytes);
	if (error != 0)
		return (zp_explain(why, error, "cannot reserve %llu bytes for volume %s: %s", (u_longlong_t)bytes, name,
		    error == ENOSPC ? "the pool has not that much free (a thin volume reserves nothing)" : strerror(error)));
	return (0);
}

int
zp_volume_create(const char *name, uint64_t size, uint32_t block_size, int thick, const char *compression, struct zp_why *why)
{
	struct layout layout = { size, block_size };
	int error = dmu_objset_create(name, DMU_OST_ZVOL, 0, NULL, lay_out, &layout);

	if (error != 0)
		return (zp_explain(why, error, "cannot create volume %s: %s", name, strerror(error)));
	if (thick)
		error = reserve(name, size, block_size, why);
	if (error == 0 && compression != NULL && compression[0] != '\0')
		error = zp_property_set(name, "compression", compression, why);
	if (error != 0)
		(void) dsl_destroy_head(name);
	return (error);
}

int
zp_volume_destroy(const char *name, struct zp_why *why)
{
	int error = dsl_destroy_head(name);
	/* Our caller has it open no more: what else keeps a volume is what hangs on it. */
	if (error == EEXIST || error == EBUSY)
		return (zp_explain(why, EPERM, "cannot destroy volume %s: it has snapshots, which would go with it: destroy them first "
		    "(zpair volume destroy %s@SNAPSHOT)", name, name));
	if (error != 0)
		return (zp_explain(why, error, "cannot destroy volume %s: %s", name, strerror(error)));
	return (0);
}

int
zp_volume_snapshot(const char *name, const char *snapshot, struct zp_why *why)
{
	int error = dmu_objset_snapshot_one(name, snapshot);
	if (error != 0) {
		return (zp_explain(why, error, "cannot take snapshot %s@%s: %s", name, snapshot,
		    error == ENOSPC ? "a thick volume's snapshot needs room to overwrite all of it" : strerror(error)));
	}
	return (0);
}

int
zp_snapshot_destroy(const char *name, const char *snapshot, struct zp_why *why)
{
	char full[ZP_NAME_SIZE];
	struct zp_volume_info info;
	(void) snprintf(full, sizeof (full), "%s@%s", name, snapshot);
	int error = zp_volume_look(full, &info, why);	/* OpenZFS calls a snapshot that never was destroyed */
	if (error != 0)
		return (error);
	error = dsl_destroy_snapshot(full, B_FALSE);
	if (error == EEXIST)
		return (zp_explain(why, EPERM, "cannot destroy snapshot %s: clones are made of it", full));
	if (error != 0)
		return (zp_explain(why, error, "cannot destroy snapshot %s: %s", full, strerror(error)));
	return (0);
}

int
zp_volume_clone(const char *snapshot, const char *name, int thick, struct zp_why *why)
{
	struct zp_volume_info info;
	int error = dmu_objset_clone(name, snapshot);

	if (error != 0)
		return (zp_explain(why, error, "cannot clone %s as %s: %s", snapshot, name,
		    error == EEXIST ? "there is a volume of that name" : error == ENOENT ? "there is no such snapshot" :
		    strerror(error)));
	error = zp_volume_look(name, &info, why);
	if (error == 0 && thick)
		error = reserve(name, info.size_bytes, info.block_size_bytes, why);
	if (error != 0)
		(void) dsl_destroy_head(name);
	return (error);
}

/*
 * In one txg, the log's header emptied with it: a crash leaves the volume as it was, with its log, or as the snapshot is.  The
 * size and a thick volume's reservation follow; a reservation that is still the former one keeps too much, never too little.
 */
int
zp_volume_rollback(const char *name, const char *snapshot, struct zp_why *why)
{
	struct zp_volume_info before, after;
	char full[ZP_NAME_SIZE];
	(void) snprintf(full, sizeof (full), "%s@%s", name, snapshot);
	int error = zp_volume_look(name, &before, why);

	if (error != 0)
		return (error);
	nvlist_t *result = fnvlist_alloc();
	error = dsl_dataset_rollback(name, full, NULL, result);
	fnvlist_free(result);
	switch (error) {
	case 0:
		break;
	case EEXIST:
		return (zp_explain(why, EPERM, "cannot roll volume %s back to %s: it has newer snapshots, which would go with it, and only "
		    "the newest one can be rolled back to", name, full));
	case ESRCH:
		return (zp_explain(why, ENOENT, "cannot roll volume %s back: there is no snapshot %s", name, full));
	case ENOSPC:
		return (zp_explain(why, ENOSPC, "cannot roll volume %s back to %s: the pool has not enough free to keep its reservation "
		    "meanwhile", name, full));
	default:
		return (zp_explain(why, error, "cannot roll volume %s back to %s: %s", name, full,
		    error == EBUSY ? "it is in use" : strerror(error)));
	}
	error = zp_volume_look(name, &after, why);
	if (error == 0 && before.reserved_bytes != 0 && after.size_bytes != before.size_bytes)
		error = reserve(name, after.size_bytes, after.block_size_bytes, why);
	if (error != 0) {
		struct zp_why then = *why;
		return (zp_explain(why, error, "volume %s is rolled back to %s, but then: %s", name, full, then.text));
	}
	return (0);
}

int
zp_volume_resize(const char *name, zp_volume *volume, uint64_t size, struct zp_why *why)
{
	struct zp_volume_info info;
	objset_t *os = volume != NULL ? volume->os : NULL;
	int error = zp_volume_look(name, &info, why);

	if (error != 0)
		return (error);
	if (size < info.size_bytes)
		return (zp_explain(why, EINVAL, "volume %s has %llu bytes, %llu would cut data off: volumes only grow", name,
		    (u_longlong_t)info.size_bytes, (u_longlong_t)size));
	if (info.reserved_bytes != 0) {
		error = reserve(name, size, info.block_size_bytes, why);
		if (error != 0)
			return (error);
	}
	if (volume == NULL) {
		error = dmu_objset_own(name, DMU_OST_ZVOL, B_FALSE, B_FALSE, FTAG, &os);
		if (error != 0)
			return (zp_explain(why, error, "cannot open volume %s: %s", name, strerror(error)));
	}
	dmu_tx_t *tx = dmu_tx_create(os);
	dmu_tx_hold_zap(tx, PROPERTY_OBJECT, TRUE, NULL);
	error = dmu_tx_assign(tx, DMU_TX_WAIT);
	if (error != 0) {
		dmu_tx_abort(tx);
	} else {
		error = zap_update(os, PROPERTY_OBJECT, "size", 8, 1, &size, tx);
		dmu_tx_commit(tx);
		txg_wait_synced(dmu_objset_pool(os), 0);
	}
	if (volume == NULL)
		dmu_objset_disown(os, B_FALSE, FTAG);
	else if (error == 0)
		__atomic_store_n(&volume->size, size, __ATOMIC_RELEASE);
	if (error != 0)
		return (zp_explain(why, error, "cannot resize volume %s: %s", name, strerror(error)));
	return (0);
}

static int
look_at_volume(objset_t *os, struct zp_volume_info *info, struct zp_why *why)
{
	dsl_dataset_t *ds = dmu_objset_ds(os);
	dmu_object_info_t data;
	uint64_t number;

	info->guid = dsl_dataset_phys(ds)->ds_guid;
	int error = zap_lookup(os, PROPERTY_OBJECT, "size", 8, 1, &info->size_bytes);
	if (error == 0)
		error = dmu_object_info(os, DATA_OBJECT, &data);
	if (error != 0)
		return (zp_explain(why, error, "cannot read the layout of volume %s: %s", info->name, strerror(error)));
	info->block_size_bytes = data.doi_data_block_size;
	info->reserved_bytes = ds->ds_reserved;
	info->used_bytes = dsl_dir_phys(ds->ds_dir)->dd_used_bytes;
	info->referenced_bytes = dsl_dataset_phys(ds)->ds_referenced_bytes;
	const char *compression = "?";
	if (dsl_prop_get_int_ds(ds, zfs_prop_to_name(ZFS_PROP_COMPRESSION), &number) == 0)
		(void) zfs_prop_index_to_string(ZFS_PROP_COMPRESSION, number, &compression);
	(void) snprintf(info->compression, sizeof (info->compression), "%s", compression);
	return (0);
}

int
zp_volume_look(const char *name, struct zp_volume_info *info, struct zp_why *why)
{
	objset_t *os;

	memset(info, 0, sizeof (*info));
	(void) snprintf(info->name, sizeof (info->name), "%s", name);
	int error = dmu_objset_hold(name, FTAG, &os);
	if (error != 0)
		return (zp_explain(why, error, "cannot look at volume %s: %s", name, strerror(error)));
	if (dmu_objset_type(os) != DMU_OST_ZVOL) {
		error = zp_explain(why, ENOTBLK, "%s is no volume", name);
	} else {
		error = look_at_volume(os, info, why);
	}
	dmu_objset_rele(os, FTAG);
	return (error);
}

int
zp_volume_look_open(zp_volume *volume, struct zp_volume_info *info, struct zp_why *why)
{
	memset(info, 0, sizeof (*info));
	(void) snprintf(info->name, sizeof (info->name), "%s", volume->name);
	dsl_pool_config_enter(dmu_objset_pool(volume->os), FTAG);
	int error = look_at_volume(volume->os, info, why);
	dsl_pool_config_exit(dmu_objset_pool(volume->os), FTAG);
	return (error);
}

struct each {
	int (*found)(void *context, const char *name);
	void *context;
	const char *pool;
};

static int
each_dataset(const char *name, void *opaque)
{
	struct each *each = opaque;
	if (strcmp(name, each->pool) == 0)
		return (0);
	return (each->found(each->context, name));
}

int
zp_volumes_each(zp_pool *pool, int (*found)(void *context, const char *name), void *context)
{
	struct each each = { found, context, pool->name };
	return (dmu_objset_find(pool->name, each_dataset, &each, DS_FIND_CHILDREN | DS_FIND_SNAPSHOTS));
}
