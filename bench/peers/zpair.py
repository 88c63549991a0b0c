import json
import pathlib
import subprocess

import programs
from peer import Peer
from short import fill_holes

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Zpair(Peer):
    name = "zpair"
    durable = "answered when the log record is durable on both legs"
    reads_from = "its cache, else the local leg"

    def __init__(self, folder, volume_bytes):
        super().__init__(folder, volume_bytes)
        self.zpair = ROOT / "build" / "release" / "bin" / "zpair"
        self.sandbox = self.folder / "s"

    def start(self):
        size_mib = self.volume_bytes >> 20
        programs.run([self.zpair, "sandbox", "up", self.sandbox, "--pools", 1, "--volume-size", f"{size_mib}M",
                      "--drive-size", f"{max(128, size_mib // 4)}M", "--direct-paths"])
        programs.run([self.zpair, "sandbox", "down", self.sandbox])
        for drive in sorted((self.sandbox / "drives").glob("*/*")):
            fill_holes(drive)
        programs.run([self.zpair, "sandbox", "up", self.sandbox])
        programs.run([self.zpair, "sandbox", "wait", self.sandbox, "--in-sync"])
        listed = json.loads(programs.run([self.zpair, "--sandbox", self.sandbox, "volume", "list", "--json"]))
        self.uri = listed["volumes"][0]["nbd"]["a"]

    def engine(self, writes):
        return ["--ioengine=nbd", f"--uri={self.uri}"]

    def stop(self):
        subprocess.run([self.zpair, "sandbox", "down", self.sandbox, "--delete"], capture_output=True)
        super().stop()
