"""QEMU's two ways to write two copies, in qemu-storage-daemon: one copy local, the other behind a second daemon, joined by a Unix socket (QEMU 7.2
leaves Nagle's algorithm on for NBD over TCP, and several requests in flight wait 40 ms for an acknowledgement). Its manual: qemu-storage-daemon(1)."""
import json
import socket

import programs
from peer import Peer


class Monitor:
    """QMP, a command at a time. Source: docs/interop/qmp-spec of QEMU."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rw")
        self.stream.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            answer = json.loads(self.stream.readline())
            if "error" in answer:
                raise programs.Failed(f"qemu-storage-daemon: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


class Qemu(Peer):
    wants = ("qemu-storage-daemon",)
    reads_from = "the local copy, O_DIRECT"
    partner_flushes = False   # the second daemon flushes each write before it answers

    def start(self):
        self.socket = self.folder / "volume"
        link = self.folder / "link"
        files = [self.file(name, self.volume_bytes) for name in ("a", "b")]
        self.daemon("qemu-storage-daemon", "--blockdev", self._drive("b", files[1]), "--nbd-server", f"addr.type=unix,addr.path={link}",
                    "--export", "type=nbd,id=out,node-name=b,name=b,writable=on" + (",writethrough=on" if self.partner_flushes else ""))
        self.wait_for("the second daemon", link.exists)
        self.daemon("qemu-storage-daemon", "--chardev", f"socket,id=c,path={self.folder}/monitor,server=on,wait=off", "--monitor", "chardev=c",
                    "--blockdev", self._drive("a", files[0]), "--blockdev", f"driver=nbd,node-name=r,server.type=unix,server.path={link},export=b",
                    *self.join(), "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                    "--export", f"type=nbd,id=out,node-name={self.top},name=v,writable=on,writethrough=on")
        self.wait_for("the first daemon", self.socket.exists)
        self.begin()

    def join(self):
        return []

    def begin(self):
        pass

    def engine(self, writes):
        return ["--ioengine=nbd", f"--uri=nbd+unix:///v?socket={self.socket}"]

    def _drive(self, node, path):
        return f"driver=file,node-name={node},filename={path},cache.direct=on,aio=io_uring"


class Mirror(Qemu):
    name = "QEMU mirror"
    top = "a"
    # The filter of the job passes a flush to its source only: the target's own export is write-through.
    partner_flushes = True
    durable = "copy-mode write-blocking; both exports write-through: each copy is flushed before the answer"

    def begin(self):
        monitor = Monitor(self.folder / "monitor")
        monitor.ask("blockdev-mirror", **{"job-id": "m", "device": "a", "target": "r", "sync": "full", "copy-mode": "write-blocking"})
        self.wait_for("both copies to be equal", lambda: [job["status"] for job in monitor.ask("query-jobs")] == ["ready"])


class Quorum(Qemu):
    name = "QEMU quorum"
    top = "q"
    durable = "vote-threshold 2, export write-through: both children are written and flushed before the answer"

    def join(self):
        return ["--blockdev", "driver=quorum,node-name=q,children.0=a,children.1=r,vote-threshold=2,read-pattern=fifo"]
