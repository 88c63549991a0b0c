"""Two servers and a witness as docs/two-servers.md has them, made of namespaces: each host has its own network, its own /etc/zpair,
/run and /var, and drives under /dev/disk/by-id; three bridges in a namespace of their own are the switches. The files and the
commands are the page's. Needs root, or user namespaces.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile

from harness import BIN, Failed, Pair, Skipped, check, run, wait_for

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "two-servers.md"
HOSTS = ("a", "b", "witness")
SWITCHES = ("path1", "path2", "store")
DRIVE_BYTES = 128 << 30   # sparse
BLOCK = re.compile(r"^```(?:sh|toml) (\S+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Everything of the machine, but own /etc/zpair, /run, /var and /dev; then nothing but to hold the namespaces.
HOLD_HOST = r"""
set -e
root=$1; var=$2; drives=$3
mount -t tmpfs none "$root"
for entry in /*; do
  case $entry in /dev | /etc | /run | /var) continue ;; esac
  if [ -L "$entry" ]; then cp -P "$entry" "$root/"
  elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"; fi
done
mkdir -p "$root/etc/zpair" "$root/.etc" "$root/run" "$root/var" "$root/dev/shm" "$root/dev/disk/by-id"
mount --rbind /etc "$root/.etc"
for entry in /etc/*; do [ "$entry" = /etc/zpair ] || ln -s "/.$entry" "$root/etc/"; done
mount --bind "$var" "$root/var"
for device in null zero full random urandom tty; do : > "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
ln -s /proc/self/fd "$root/dev/fd"
for drive in "$drives"/*; do ln -s "$drive" "$root/dev/disk/by-id/"; done
ip link set lo up
exec chroot "$root" /bin/sh -c 'echo ready; exec sleep infinity'
"""


def read_page():
    """([(hosts, subject, text)], {host: {switch: address}}) of docs/two-servers.md."""
    text = PAGE.read_text()
    blocks = [(hosts.split(","), subject, body) for hosts, subject, body in BLOCK.findall(text)]
    addresses = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in HOSTS and len(cells) == 1 + len(SWITCHES):
            addresses[cells[0]] = {switch: cell for switch, cell in zip(SWITCHES, cells[1:]) if cell}
    check(set(addresses) == set(HOSTS) and blocks, f"{PAGE} has no addresses or no blocks: the test reads them")
    return blocks, addresses


class NoNamespace(Failed):
    pass


class TwoServers(Pair):
    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zp."))
        self.loads = []
        self.switches = None     # the process that holds the switches' namespace
        self.hosts = {}          # name: the process that holds the host's namespaces
        self.asked = "b"         # the host whose zpair answers our questions
        self.user_namespace = False

    # --- namespaces ---

    def hold(self, *command):
        holder = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  stdin=subprocess.DEVNULL, text=True)
        if holder.stdout.readline() != "ready\n":
            why = holder.communicate()[1].strip().splitlines()
            raise NoNamespace(why[-1] if why else f"{command[0]} made no namespace")
        return holder

    def inside(self, holder, *command):
        """The command line that runs a command where the holder is."""
        user = ["-U", "--preserve-credentials"] if self.user_namespace else []
        return ["nsenter", "-t", str(holder.pid), *user, "-n", "-m", "-r", "-w", *map(str, command)]

    def link(self, *arguments):
        run(*self.inside(self.switches, "ip", "link", *arguments))

    def on(self, host, script, timeout=120, ok=(0,)):
        """Runs a shell script on a host; what it leaves in the background stays."""
        path = f"PATH={BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command = self.inside(self.hosts[host], "env", path, "sh", "-ec", script)
        return run(*command, timeout=timeout, ok=ok)

    def hold_switches(self):
        """As root, or as root of a user namespace."""
        script = "ip link set lo up; ip link add try type bridge; ip link del try; echo ready; exec sleep infinity"
        refused = []
        for self.user_namespace in (False, True) if os.geteuid() == 0 else (True,):
            try:
                self.switches = self.hold("unshare", *(["-Ur"] if self.user_namespace else []), "-n", "-m", "sh", "-ec", script)
                return
            except NoNamespace as why:
                refused.append(str(why))
        raise Skipped(f"needs root or user namespaces with networks ({'; '.join(refused)})")

    def make_hosts(self):
        self.hold_switches()
        for switch in SWITCHES:
            self.link("add", switch, "type", "bridge")
            self.link("set", switch, "up")
        for host in HOSTS:
            place = self.folder / host
            for folder in ("root", "var/lib", "var/log", "var/tmp", "drives"):
                (place / folder).mkdir(parents=True)
            for number in range(2 if host != "witness" else 0):
                with open(place / "drives" / f"nvme-{host.upper()}{number}", "wb") as drive:
                    drive.truncate(DRIVE_BYTES)
            self.hosts[host] = self.hold(*self.inside(self.switches, "unshare", "-n", "-m", "sh", "-c", HOLD_HOST, "host",
                                                      place / "root", place / "var", place / "drives"))
            for switch, address in self.addresses[host].items():
                self.link("add", f"{host}-{switch}", "type", "veth", "peer", "name", switch, "netns", self.hosts[host].pid)
                self.link("set", f"{host}-{switch}", "master", switch, "up")
                self.on(host, f"ip address add {address} dev {switch}; ip link set {switch} up")

    # --- the page ---

    def write_files(self):
        for hosts, file, text in self.blocks:
            for host in hosts if file.startswith("/") else []:
                target = pathlib.Path(f"/proc/{self.hosts[host].pid}/root{file}")
                target.write_text(text)
                target.chmod(0o755 if text.startswith("#!") else 0o644)

    def run_blocks(self, subject, only=HOSTS):
        done = [self.on(host, text) for hosts, name, text in self.blocks if name == subject for host in hosts if host in only]
        check(done, f"{PAGE} has no block `{subject}` for {only}")

    def up(self):
        self.blocks, self.addresses = read_page()
        self.make_hosts()
        self.write_files()
        self.run_blocks("first-etcd")
        self.run_blocks("start-zpaird")
        self.wait_for_both()
        self.run_blocks("make-pool")
        self.run_blocks("look")
        self.wait_in_sync()
        return self

    def wait_for_both(self):
        def all_there():
            done = self.zpair("status", "--json", ok=None)
            if done.returncode != 0:
                return None
            seen = json.loads(done.stdout)
            return (seen["partner"]["state"] == "alive" and seen["store"]["state"] == "available"
                    and all(path["state"] == "up" for path in seen["paths"]))
        wait_for("both nodes, both paths and the store", all_there)

    # --- what Pair's own questions need ---

    def zpair(self, *arguments, timeout=120, ok=(0,)):
        return self.on(self.asked, "exec zpair " + " ".join(map(str, arguments)), timeout=timeout, ok=ok)

    def status(self):
        return self.zpair_json("status")

    def uris(self, node, *which):
        """The volumes' sockets as they are seen from outside of the host."""
        return [uri.replace("socket=/", f"socket=/proc/{self.hosts[node].pid}/root/") for uri in super().uris(node, *which)]

    def wait_in_sync(self, seconds=90):
        def all_in_sync():
            pools = self.status()["pools"]
            return pools and all(pool["state"] == "online" and all(leg["in_sync"] for mirror in pool["mirrors"] for leg in mirror["legs"])
                                 for pool in pools)
        wait_for("every leg in sync", all_in_sync, seconds, every=0.2)

    # --- what breaks ---

    def switch(self, name, state):
        self.link("set", name, state)

    def processes_of(self, host):
        """Everything that runs on the host, except what holds it."""
        holder = self.hosts[host].pid
        network = os.readlink(f"/proc/{holder}/ns/net")
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and int(entry) != holder and os.readlink(f"/proc/{entry}/ns/net") == network:
                    found.append(int(entry))
            except OSError:   # it ended meanwhile, or is not ours
                continue
        return found

    def kill_processes(self, host):
        def all_gone():
            left = self.processes_of(host)
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            return not left
        wait_for(f"the end of every process on {host}", all_gone, 10)

    def power_off(self, host):
        """A dead host closes no connection: its cables first, then everything on it."""
        for switch in self.addresses[host]:
            self.link("set", f"{host}-{switch}", "down")
        self.kill_processes(host)
        self.on(host, "rm -rf /run/*")

    def power_on(self, host):
        for switch in self.addresses[host]:
            self.link("set", f"{host}-{switch}", "up")
        self.run_blocks("each-start", (host,))

    def leave(self):
        self.down(keep=True)   # nobody could end the namespaces later: only the files stay

    def down(self, keep=False):
        for load in self.loads:
            load.stop_hard()
        for host in self.hosts:
            self.kill_processes(host)
        for holder in [*self.hosts.values(), self.switches]:
            if holder is not None:
                holder.kill()
                holder.communicate()
        if not keep:
            run("rm", "-rf", self.folder)
