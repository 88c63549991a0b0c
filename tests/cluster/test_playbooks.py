"""The playbooks of docs/playbooks: every command block runs, and prints what the page shows."""
import playbooks


def _test_of(name):
    def test(pair):
        playbooks.Book(name, pair).run()
    test.__doc__ = f"docs/playbooks/{name}: its commands do what it says, under load, nothing lost."
    test.options = {"mirrors": 2}
    return test


for _file in sorted(playbooks.FOLDER.glob("*.md")):
    if _file.name != "README.md":
        globals()[f"test_playbook_{_file.stem.replace('-', '_')}"] = _test_of(_file.name)
del _file
