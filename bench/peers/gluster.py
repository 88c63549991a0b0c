"""GlusterFS, replica 2: both bricks and the management daemon. Its manual: docs.gluster.org, "Volume Types", and the `virt` group of settings."""
import json
import os
import socket
import subprocess

import programs
from peer import Peer

MANAGEMENT_PORT = 24007
SETTINGS = {"performance.quick-read": "off", "performance.read-ahead": "off", "performance.io-cache": "off", "performance.stat-prefetch": "off",
            "performance.write-behind": "off", "performance.strict-o-direct": "on", "network.remote-dio": "disable", "cluster.eager-lock": "enable"}


def own_address():
    """Gluster takes no loopback address for a brick's host."""
    listed = json.loads(programs.run(["ip", "-json", "-4", "address", "show", "scope", "global"]))
    found = [address["local"] for link in listed for address in link["addr_info"]]
    if not found:
        raise programs.Failed("GlusterFS wants an address of this machine that is not the loopback's, and there is none")
    return found[0]


class Gluster(Peer):
    name = "GlusterFS replica 2"
    wants = ("glusterd", "gluster", "glusterfsd")
    durable = "O_SYNC, write-behind off: answered when both bricks have written it so"
    reads_from = "the local brick, O_DIRECT"

    def start(self):
        self.volume = None
        if os.geteuid() != 0:
            raise programs.Failed("GlusterFS keeps its state in attributes that only root may set: run as root for it")
        with socket.socket() as probe:   # fio asks this port, and a daemon of somebody's must not be asked for a volume of ours
            if probe.connect_ex(("127.0.0.1", MANAGEMENT_PORT)) == 0:
                raise programs.Failed(f"something listens on port {MANAGEMENT_PORT}, GlusterFS's own: stop it, or leave GlusterFS out (--only)")
        for part in ("state", "run", "a", "b"):
            (self.folder / part).mkdir()
        settings = self.folder / "glusterd.vol"
        settings.write_text(f"""volume management
    type mgmt/glusterd
    option working-directory {self.folder}/state
    option run-directory {self.folder}/run
    option glusterd-sockfile {self.folder}/glusterd.socket
    option transport-type socket
end-volume
""")
        self.daemon("glusterd", "-N", "-f", settings, "-p", self.folder / "run" / "glusterd.pid", "-l", self.folder / "glusterd.log")
        self.wait_for("glusterd", lambda: subprocess.run([*self._cli(), "volume", "list"], capture_output=True).returncode == 0)
        self.host = own_address()
        self.volume = f"zpair-{os.getpid()}"
        self._gluster("volume", "create", self.volume, "replica", 2, f"{self.host}:{self.folder}/a/brick", f"{self.host}:{self.folder}/b/brick", "force")
        for key, value in SETTINGS.items():
            self._gluster("volume", "set", self.volume, key, value)
        self._gluster("volume", "start", self.volume)
        self.wait_for("both bricks", lambda: self._gluster("volume", "status", self.volume, "--xml").count("<status>1</status>") >= 2)

    def engine(self, writes):
        return ["--ioengine=gfapi_async", f"--volume={self.volume}", f"--brick={self.host}", "--filename=volume", "--direct=1", *(["--sync=1"] if writes else [])]

    def stop(self):
        if self.volume is not None:
            subprocess.run([*self._cli(), "volume", "stop", self.volume, "force"], capture_output=True)
        super().stop()

    def _gluster(self, *words):
        return programs.run([*self._cli(), *words])

    def _cli(self):
        return ["gluster", "--mode=script", f"--glusterd-sock={self.folder}/glusterd.socket"]
