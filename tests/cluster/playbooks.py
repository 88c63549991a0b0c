"""Runs a playbook (docs/playbooks/*.md): its command blocks against a sandbox, under a verified load, and compares what they print.

In a playbook a block

    ```console
    $ zpair switchover tank-a --to b
    what it prints
    ```

is executed and its output compared, but for numbers, ages, counted errors and the widths of columns. What happens outside of zpair
stands in comments, which a reader does not see:

    <!-- pair: kill a -->                 any command of `zpair sandbox`
    <!-- pair: new-drive b nvme-B9 -->    an empty drive, /dev/disk/by-id/nvme-B9 of node b
    <!-- pair: carry a tank-a-00 b nvme-A0 -->   a's drive tank-a-00 is b's nvme-A0 from now on
    <!-- pair: in-sync -->  <!-- pair: owner tank-a b -->  <!-- pair: state tank-a down -->      waits for it
    <!-- pair: io -->                     waits until every volume has answered writes again
    <!-- pair: end-load tank-a -->        the clients of this pool end, and verify
    <!-- exit: 3 -->                      how the next block's only command ends (else 0)

ZPAIR_UPDATE_GOLDEN=1 (`./dev test --update-golden --only cluster playbook`) writes what was printed into the playbook.
"""
import os
import pathlib
import re
import shlex

from harness import BIN, Failed, check, run, wait_for

FOLDER = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "playbooks"
BY_ID = "/dev/disk/by-id"
STEP = re.compile(r"<!-- (pair|exit): (.+?) -->|```console\n(.*?)```", re.DOTALL)


def alike(text):
    """What two runs print alike."""
    text = re.sub(r"\d+(\.\d+)?", "N", text)
    text = re.sub(r"(N (h|min|s|ms) ?)+ago", "AGO", text)
    text = re.sub(r"\bN[KMGT]?B?(/s)?\b", "N", text)
    text = re.sub(r"(N (read|write|checksum)(, )?)+", "", text)
    text = re.sub(r"leader \w+", "leader", text)
    text = re.sub(r"(?<=\s)-(?=\s)", "N", text)   # a figure that is not known yet
    return [line for line in (re.sub(r"\s+", " ", line).strip() for line in text.splitlines()) if line]


class Book:
    def __init__(self, name, pair):
        self.file, self.pair = FOLDER / name, pair
        self.loads = {}
        self.exit_code = 0
        self.wrong = []

    def run(self):
        for pool in ("tank-a", "tank-b"):
            self.loads[pool] = self.pair.load("b", [pool])   # it is a that dies in the playbooks
        self._io()
        text = STEP.sub(self._step, self.file.read_text())
        for load in self.loads.values():
            load.finish()
        if self.wrong and os.environ.get("ZPAIR_UPDATE_GOLDEN"):
            self.file.write_text(text)
        elif self.wrong:
            raise Failed("\n".join(self.wrong))

    def _step(self, match):
        kind, words, block = match.groups()
        if kind == "exit":
            self.exit_code = int(words)
        elif kind == "pair":
            self._direct(*words.split())
        else:
            return self._block(block)
        return match[0]

    def _direct(self, word, *arguments):
        pair = self.pair
        if word == "new-drive":
            node, name = arguments
            with open(pair.dir / "drives" / node / name, "wb") as file:
                file.truncate(256 << 20)
        elif word == "carry":
            node, name, to, new_name = arguments
            os.rename(pair.dir / "drives" / node / name, pair.dir / "drives" / to / new_name)
        elif word == "in-sync":
            pair.wait_in_sync()
        elif word == "owner":
            pair.wait_owner(*arguments, seconds=60)
        elif word == "state":
            pool, state = arguments
            wait_for(f"{pool} to be {state}", lambda: pair.pool(pool)["state"] == state, 60)
        elif word == "io":
            self._io()
        elif word == "end-load":
            self.loads.pop(*arguments).finish()
        else:
            pair.sandbox(word, *arguments)

    def _io(self):
        for load in self.loads.values():
            load.goes_on()

    def _block(self, block):
        """The block as it would read with what its commands print now."""
        out = []
        for part in re.split(r"^(?=\$ )", block, flags=re.MULTILINE):
            if not part.strip():
                continue
            command, _, expected = part.partition("\n")
            printed = self._execute(command.removeprefix("$ "))
            if alike(printed) != alike(expected):
                self.wrong.append(f"{self.file.name}: {command}\n  is told to print:\n{expected}  printed:\n{printed}")
                expected = printed
            out.append(f"{command}\n{expected}")
        return "```console\n" + "".join(out) + "```"

    def _execute(self, command):
        drives = self.pair.dir / "drives"
        command = re.sub(rf"\b([ab]):{BY_ID}/", lambda found: f"{found[1]}:{drives / found[1]}/", command)
        if replaced := re.match(r"zpair node replace ([ab]) ", command):
            command = command.replace(f"{BY_ID}/", f"{drives / replaced[1]}/")
        words = shlex.split(command)
        check(words[0] == "zpair", f"{self.file.name}: only zpair's own commands can be executed: {command}")
        done = run(BIN / "zpair", "--sandbox", self.pair.dir, *words[1:], ok=None)
        check(done.returncode == self.exit_code, f"{self.file.name}: {command} ended with {done.returncode}: {done.stderr or done.stdout}")
        self.exit_code = 0
        return re.sub(rf"{drives}/[ab]/", f"{BY_ID}/", done.stdout + done.stderr)
