#!/usr/bin/env python3
"""Makes tests/data/compare from recorded launches: what `lamina ab` measured of one build against itself.

    build/lamina ab --base build/lamina --new build/lamina CONFIG --launches 12 --limit 1 -o runs/bank
    scripts/make_compare_corpus.py runs/bank tests/data/compare

and tests/data/compare-cycles, of rows that have cycles, without the copies (its tests make theirs):

    scripts/ci/measure_gate.sh runs/gate-bank
    scripts/make_compare_corpus.py runs/gate-bank tests/data/compare-cycles --launches 10 --rows m16/int --recorded-alone

The launches are kept as they were recorded, without their samples and what a comparison does not read. Beside them stand
copies of NEW with changes that are known because they are made here. tests/cli/compare_test.py says what comes of each.
"""

import argparse
import json
import pathlib
import re
import shutil
import sys

RECORD_KEYS = [
    "schema_version", "run_id", "launch_id", "case", "workload", "model", "layer", "tokens", "in_features", "out_features",
    "scheme", "device", "kernel", "isa", "shard", "communicator", "ranks", "nodes", "threads", "cache", "status", "reason",
    "warnings", "latency_us_p50", "core_clock_mhz", "cycles_p50", "check_passed", "check_error", "check_tolerance", "quality_nmse",
]
LAUNCH_KEYS = ["launch_id", "started", "written", "ranks", "nodes", "threads"]
MACHINE_KEYS = ["cpu", "cores", "isa", "clock_governor", "turbo", "memory_bytes", "system", "distribution"]


def read_launches(side, most, wanted):
    """Records and environment of each launch, in order: `most` of them at most, and of the cases that `wanted` finds."""
    launches = []
    while len(launches) < most and (folder := side / f"launch-{len(launches) + 1}").is_dir():
        rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        rows = [row for row in rows if re.search(wanted, row["case"])]
        found = json.loads((folder / "environment.json").read_text())
        environment = {key: found[key] for key in ("schema_version", "run_id", "lamina")}
        environment["machine"] = {key: found["machine"][key] for key in MACHINE_KEYS}
        environment["config"] = found["config"]
        environment["config_digest"] = found["config_digest"]
        environment["launches"] = [{key: one[key] for key in LAUNCH_KEYS} for one in found["launches"]]
        launches.append(([{key: row[key] for key in RECORD_KEYS} for row in rows], environment))
    return launches


def text_of(rows):
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def write_folders(folder, launches):
    for number, (rows, environment) in enumerate(launches, 1):
        launch = folder / f"launch-{number}"
        launch.mkdir(parents=True)
        (launch / "records.jsonl").write_text(text_of(rows))
        (launch / "environment.json").write_text(json.dumps(environment, separators=(",", ":")) + "\n")


def changed(launches, name, change):
    """Copies under run ids of their own; `change` alters a row of a launch in place, or returns False to leave it out."""
    result = []
    for number, (rows, environment) in enumerate(launches, 1):
        run_id = f"{name}-{number}"
        kept = []
        for row in rows:
            copy = dict(row, run_id=run_id)
            if change(copy, number) is not False:
                kept.append(copy)
        result.append((kept, dict(environment, run_id=run_id)))
    return result


def slow(factor, scheme=None):
    def change(row, number):
        if scheme in (None, row["scheme"]):
            row["latency_us_p50"] *= factor
    return change


def leave_out(row, number):
    return row["scheme"] != "int8"


def fail_once(row, number):
    if row["scheme"] == "int8" and number == 3:
        row.update(status="invalid", reason="check failed", latency_us_p50=None, check_passed=False, quality_nmse=None)


def lose_quality(row, number):
    if row["scheme"].startswith("int4"):
        row["quality_nmse"] *= 1.2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--launches", type=int, default=10**6, metavar="N", help="of each side at most")
    parser.add_argument("--rows", default="", metavar="RE", help="the cases whose name this finds")
    parser.add_argument("--recorded-alone", action="store_true", help="no changed copies")
    options = parser.parse_args()
    bank, out = options.bank, options.out
    base, new = (read_launches(bank / side, options.launches, options.rows) for side in ("base", "new"))
    if not base or len(base) != len(new):
        sys.exit(f"{bank}: expected as many launches in base/ as in new/, found {len(base)} and {len(new)}")
    shutil.rmtree(out, ignore_errors=True)
    write_folders(out / "base", base)
    write_folders(out / "new", new)
    if options.recorded_alone:
        return
    write_folders(out / "slower-5", changed(new, "slower-5", slow(1.05)))
    for name, change in (("one-slower-10", slow(1.10, "int8")), ("missing", leave_out), ("invalid", fail_once),
                         ("worse", lose_quality)):
        rows = [row for launch, _ in changed(new, name, change) for row in launch]
        (out / f"{name}.jsonl").write_text(text_of(rows))


if __name__ == "__main__":
    main()
