#!/usr/bin/env python3
"""Runs the cluster tests: real processes, one pair a test (a sandbox, or what the test's own `pair` makes). Prints one line
a test and ends with the counts.

  run.py [--keep] [NAME ...]     NAME: a test function or a part of its name; none = all but those marked slow
"""
import argparse
import importlib
import os
import pathlib
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def find_tests():
    tests = []
    for file in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(file.stem)
        for name in vars(module):
            if name.startswith("test_"):
                tests.append((name, getattr(module, name)))
    return tests


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true", help="leave the folder of a failed test")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--slow", action="store_true", help="only the tests marked slow (./dev soak)")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if "ZPAIR_BIN" not in os.environ:
        os.environ["ZPAIR_BIN"] = str(HERE.parent.parent / "build" / "release" / "bin")
    import harness

    tests = [(name, test) for name, test in find_tests()
             if (any(part in name for part in arguments.names) if arguments.names
                 else getattr(test, "slow", False) == arguments.slow)]
    if arguments.list:
        for name, test in tests:
            print(f"{name}: {(test.__doc__ or '').strip().splitlines()[0]}")
        return 0
    passed = failed = skipped = 0
    for name, test in tests:
        began = time.monotonic()
        pair = getattr(test, "pair", harness.Pair)(**getattr(test, "options", {}))
        kept = ""
        try:
            pair.up()
            test(pair)
            passed += 1
            word, why = "ok", ""
        except harness.Skipped as skip:
            skipped += 1
            word, why = "SKIPPED", str(skip)
        except Exception as error:  # a test that cannot even run has failed
            failed += 1
            word = "FAILED"
            why = str(error) if isinstance(error, harness.Failed) else traceback.format_exc()
            if arguments.keep:
                kept = f" (kept: {pair.folder})"
        finally:
            try:
                if word == "FAILED" and arguments.keep:
                    pair.leave()
                else:
                    pair.down()
            except Exception as error:
                print(f"  clean-up of {name}: {error}")
        print(f"{word} {name} ({time.monotonic() - began:.1f} s){': ' + why if why else ''}{kept}", flush=True)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
