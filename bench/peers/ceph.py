"""Ceph RBD: a monitor, a manager and two OSDs. Its manual: docs.ceph.com, "Manual Deployment"."""
import json
import os
import subprocess
import uuid

import programs
from peer import Peer

DRIVE_BYTES = 6 << 30   # BlueStore wants room for its own
GROUPS = 32


class Ceph(Peer):
    name = "Ceph RBD"
    wants = ("ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "rbd", "monmaptool")
    durable = "size 2, min_size 2: answered when both OSDs have committed it; no cache in the client"
    reads_from = "the first OSD's cache"

    def start(self):
        self.conf = self.folder / "ceph.conf"
        fsid = str(uuid.uuid4())
        self.conf.write_text(self._settings(fsid))
        for part in ("mon", "mgr", "osd0", "osd1", "run", "log"):
            (self.folder / part).mkdir()
        monmap = self.folder / "monmap"
        programs.run(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", "[v2:127.0.0.1:13300,v1:127.0.0.1:16789]", monmap])
        programs.run(["ceph-mon", "-c", self.conf, "-i", "a", "--mkfs", "--monmap", monmap])
        self.daemon("ceph-mon", "-c", self.conf, "-i", "a", "-f")
        self.wait_for("the monitor", lambda: self._answers("status"))
        self.daemon("ceph-mgr", "-c", self.conf, "-i", "x", "-f")
        for number in (0, 1):
            own = str(uuid.uuid4())
            self._ceph("osd", "new", own)
            self.file(f"osd{number}/block", DRIVE_BYTES)
            programs.run(["ceph-osd", "-c", self.conf, "-i", number, "--mkfs", "--osd-uuid", own])
            self.daemon("ceph-osd", "-c", self.conf, "-i", number, "-f")
        self._ceph("osd", "pool", "create", "rbd", GROUPS, GROUPS)
        for key in ("size", "min_size"):
            self._ceph("osd", "pool", "set", "rbd", key, 2)
        self.wait_for("a healthy pool", self._all_clean, 120)
        programs.run(["rbd", "-c", self.conf, "create", "--size", self.volume_bytes >> 20, "--image-feature", "layering", "rbd/v"])
        os.environ["CEPH_CONF"] = str(self.conf)   # fio's engine looks there

    def engine(self, writes):
        return ["--ioengine=rbd", "--clientname=admin", "--pool=rbd", "--rbdname=v"]

    def _ceph(self, *words):
        return programs.run(["ceph", "-c", self.conf, "--connect-timeout", 20, *words])

    def _answers(self, *words):
        return subprocess.run(["ceph", "-c", self.conf, "--connect-timeout", "2", *words], capture_output=True).returncode == 0

    def _all_clean(self):
        states = json.loads(self._ceph("status", "--format", "json"))["pgmap"].get("pgs_by_state", [])
        return sum(one["count"] for one in states if one["state_name"] == "active+clean") >= GROUPS

    def _settings(self, fsid):
        own = self.folder
        return f"""[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:13300,v1:127.0.0.1:16789]
public_network = 127.0.0.0/8
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 2
osd_pool_default_min_size = 2
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
run_dir = {own}/run
log_file = {own}/log/$name.log
admin_socket = {own}/run/$name.$pid.asok
pid_file = {own}/run/$name.pid
crash_dir = {own}/log
setuser_match_path = {own}
osd_memory_target = 2147483648
bluestore_block_size = {DRIVE_BYTES}
bluestore_debug_enforce_settings = ssd
debug_ms = 0/0
debug_osd = 0/0
debug_bluestore = 0/0
debug_bdev = 0/0
debug_rocksdb = 0/0
mon_data_avail_crit = 1
mon_data_avail_warn = 2
[client]
rbd_cache = false
log_file = {os.devnull}
[mon.a]
mon_data = {own}/mon
[mgr.x]
mgr_data = {own}/mgr
[osd.0]
osd_data = {own}/osd0
[osd.1]
osd_data = {own}/osd1
"""
