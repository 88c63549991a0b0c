"""The pair under measurement, by its API (docs/api.md): a volume to write to, what its processes use, and whether it stayed as it was."""
import http.client
import json
import secrets
import socket
import time

from programs import Failed, Usage, uninterrupted

CLIENT_LEAVES_SECONDS = 40   # a client that broke off counts for 20 s
ANSWER_SECONDS = 130   # of a change
LOOK_SECONDS = 4       # of a look: a node that is stopped takes it and says nothing


class Refused(Failed):
    pass


class NotFound(Failed):
    pass


ERRORS = {"refused": Refused, "not_found": NotFound}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("zpair", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Pair:
    def __init__(self, sockets):
        """sockets: {node's name, or "" where it is not known: path of its zpaird's socket}"""
        self._sockets = dict(sockets)

    def nodes(self):
        return list(self._sockets)

    def ask(self, method, path, body=None, node=None):
        """The answer of the first node that answers at all; Failed with its own words when it says no."""
        silent = None
        for name, place in self._sockets.items():
            if node not in (None, name):
                continue
            connection = _UnixConnection(place, LOOK_SECONDS if method == "GET" else ANSWER_SECONDS)
            try:
                connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                silent = Failed(f"zpaird does not answer at {place}: {error}")
                continue
            finally:
                connection.close()
            value = json.loads(text or b"{}")
            if answer.status >= 400:
                raise ERRORS.get(value.get("code"), Failed)(value.get("message", f"{path}: status {answer.status}"))
            return value
        raise silent or Failed("no node of the pair runs")

    def status(self):
        return self.ask("GET", "/v1/status")

    def pool(self, name):
        """The pool as its owner tells it, where that is asked too: of several answers the one with live values."""
        best = None
        for node in self._sockets:
            try:
                answer = self.ask("GET", "/v1/status", node=node)
            except Failed:
                continue
            for pool in answer["pools"]:
                if pool["name"] == name and (best is None or pool.get("process")):
                    best = pool
        if best is None:
            self.status()   # for its error
            raise Failed(f"there is no pool {name}: zpair pool list shows them")
        return best

    def pool_named(self, name):
        """The name of the pool that is meant: None is the only one."""
        pools = [pool["name"] for pool in self.status()["pools"]]
        if name is None and len(pools) == 1:
            return pools[0]
        if name is None:
            raise Usage(f"which pool? --pool with one of: {', '.join(pools) or 'there is none'}")
        if name not in pools:
            raise Failed(f"there is no pool {name}: zpair pool list shows them")
        return name

    def client_node(self, owner):
        """(name, key of its socket): in a sandbox the owner's, else the one that is asked: a guest runs where its socket is."""
        if owner in self._sockets:
            return owner, owner
        key = next(iter(self._sockets))
        return self.ask("GET", "/v1/status", node=key)["node"]["name"], key

    def volume(self, pool, name, key=None):
        for volume in self.ask("GET", "/v1/volumes", node=key)["volumes"]:
            if (volume["pool"], volume["name"]) == (pool, name):
                return volume
        raise Failed(f"there is no volume {pool}/{name}: zpair volume list shows them")

    def create_volume(self, pool, name, size_bytes):
        with uninterrupted():
            self.ask("POST", "/v1/volume/create", {"pool": pool, "name": name, "size_bytes": size_bytes, "thin": False,
                                                   "block_size_bytes": None, "compression": None})

    def destroy_volume(self, pool, name):
        """Waits for a client that broke off, for as long as it counts. One that is not there is gone."""
        end = time.monotonic() + CLIENT_LEAVES_SECONDS
        while True:
            try:
                self.ask("POST", "/v1/volume/destroy", {"pool": pool, "name": name})
                return
            except NotFound:
                return
            except Refused:
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)

    def settle(self, pool, name):
        """Returns when everything that was acknowledged is in the pool's tree: a snapshot waits for that. False: it could not tell."""
        snapshot = {"pool": pool, "name": name, "snapshot": f"bench-{secrets.token_hex(4)}"}
        try:
            with uninterrupted():   # a snapshot left behind would keep its volume
                self.ask("POST", "/v1/volume/snapshot", snapshot)
                self.ask("POST", "/v1/volume/destroy_snapshot", snapshot)
        except Failed:
            return False
        return True

    def usage(self, pool):
        """{"zpaird@a": its counters, …} of the processes that serve this pool."""
        return {f"{process['name']}@{process['node']}": process for process in self.ask("GET", "/v1/usage")["processes"]
                if process["pool"] in (None, pool)}


def used_between(before, after):
    """What each process used between two looks, {"cpu_seconds", "written_bytes"}; one that was born or died meanwhile is left out."""
    return {name: {"cpu_seconds": (now["cpu_ms"] - before[name]["cpu_ms"]) / 1000,
                   "written_bytes": now["written_bytes"] - before[name]["written_bytes"]}
            for name, now in after.items() if name in before and before[name]["pid"] == now["pid"]}
