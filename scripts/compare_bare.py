#!/usr/bin/env python3
"""Holds Lamina's all-reduces to the same loops without Lamina, launch by launch in turns, and says what it adds.

    scripts/compare_bare.py -o DIR [--device cuda] [--launches N] [--alone] -- LAUNCHER...
    scripts/compare_bare.py -o DIR --alone -- mpirun -n 2 --map-by slot:PE=1 --bind-to core

Each launch is one of lamina_bare, the loops, and one of `lamina run` with rows of configs/collectives-{cpu,gpu}.json:
float32, out of place, communicator `mpi`, or `nccl` in a graph and without. DIR gets bare.jsonl, lamina.jsonl,
environment.json of the last launch and table.md, which is printed. Exit codes: 0 compared, whatever came out; 1 a launch
failed; 64 bad usage.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"cpu": "collectives-cpu.json", "cuda": "collectives-gpu.json"}
COMMUNICATORS = {"cpu": "mpi", "cuda": "nccl"}
# Sizes that the configs have: 1 KiB to 16 MiB, and to 1 GiB.
BYTES = {"cpu": [1024 << shift for shift in range(0, 15, 2)] + [32768, 131072],
         "cuda": [1024 << shift for shift in range(0, 21, 2)]}
KEPT = ("case", "communicator", "device", "graph", "ranks", "message_bytes", "status", "reason", "latency_us_p50",
        "latency_us_min", "latency_us_ci_low", "latency_us_ci_high", "samples", "iterations_per_sample", "wrong_elements",
        "warnings", "launch")
MIB = 1 << 20


class Failed(Exception):
    pass


def call(command):
    done = subprocess.run([str(one) for one in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def lines(text):
    """Rows among what else a launcher may print."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def run_bare(arguments, launch, sizes):
    command = [*arguments.launcher, arguments.build / "lamina_bare", "--device", arguments.device]
    command += ["--thread-level", arguments.thread_level]
    if arguments.iterations:
        command += ["--iterations", arguments.iterations]
    return [{**row, "launch": launch} for row in lines(call([*command, *sizes]))]


def run_lamina(arguments, launch, sizes):
    names = f"^collective/all_reduce/({'|'.join(map(str, sizes))})B/f32/{arguments.device}-{COMMUNICATORS[arguments.device]}/out/"
    # Named as from here: environment.json keeps the command line.
    config = os.path.relpath(ROOT / "configs" / CONFIGS[arguments.device])
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        call([*arguments.launcher, arguments.build / "lamina", "run", config, "--filter", names, "-o", folder])
        rows = lines(Path(folder, "records.jsonl").read_text())
        shutil.copy(Path(folder, "environment.json"), arguments.out)
    return [{key: {**row, "launch": launch}[key] for key in KEPT} for row in rows]


def aim(device, size, bare, lamina):
    """Whether a pair of times is as close as docs/collectives.md aims for; None: nothing is aimed for."""
    if device == "cpu":
        return lamina / bare < 1.01 if bare > 10 else None
    return abs(lamina / bare - 1) <= 0.02 if size >= MIB else abs(lamina - bare) <= 0.5


def table(bare, lamina):
    """Markdown: of each size the medians over launches, and what Lamina's is more in the same launch."""
    times = {}
    for rows, key, place in ((bare, "us_median", 0), (lamina, "latency_us_p50", 1)):
        for row in rows:
            if row[key] is not None:
                by_launch = times.setdefault((row["device"], row["graph"], row["message_bytes"]), {})
                by_launch.setdefault(row["launch"], [None, None])[place] = row[key]
    text = ["| | bytes | launches | bare loop, µs | Lamina, µs | more, % | in launches, % | aim |",
            "|---|---:|---:|---:|---:|---:|---:|---|"]
    for (device, graph, size), by_launch in sorted(times.items(), key=lambda one: (str(one[0][1]) != "True", one[0][2])):
        pairs = [pair for pair in by_launch.values() if None not in pair]
        if not pairs:
            continue
        more = sorted(100 * (two / one - 1) for one, two in pairs)
        one, two = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        met = aim(device, size, one, one * (1 + median(more) / 100))
        kind = COMMUNICATORS[device] + {True: ", graph", False: ", no graph", None: ""}[graph]
        text.append(f"| {kind} | {size} | {len(pairs)} | {one:.2f} | {two:.2f} | {median(more):+.1f} "
                    f"| {more[0]:+.1f} to {more[-1]:+.1f} | {'' if met is None else 'met' if met else 'missed'} |")
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", choices=sorted(CONFIGS), default="cpu")
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--bytes", type=int, nargs="+", help="of those that the config has")
    parser.add_argument("--alone", action="store_true",
                        help="each size by a launch of its own: not interleaved with others, which the loop is not either")
    parser.add_argument("--iterations", type=int, help="calls a repeat of the loop; default: lamina_bare's")
    parser.add_argument("--thread-level", choices=("funneled", "single"), default="funneled",
                        help="what the loop asks MPI for; default: funneled, as Lamina does")
    parser.add_argument("--build", type=Path, default=Path(os.path.relpath(ROOT / "build")), help="default: build")
    parser.add_argument("launcher", nargs="+", help="mpirun and its options, after --")
    parser.exit_on_error = False
    try:
        arguments = parser.parse_args()
        if arguments.launches < 1:
            parser.error("argument --launches: expected 1 or more")
    except argparse.ArgumentError as error:
        print(f"compare_bare.py: {error}", file=sys.stderr)
        return 64
    except SystemExit as end:
        return 64 if end.code else 0
    arguments.bytes = sorted(arguments.bytes or BYTES[arguments.device])
    arguments.out.mkdir(parents=True, exist_ok=True)
    bare, lamina = [], []
    try:
        for launch in range(arguments.launches):
            for sizes in [[size] for size in arguments.bytes] if arguments.alone else [arguments.bytes]:
                # By turns first and second: what heats or fills up meanwhile touches both.
                for side in ("bare", "lamina") if launch % 2 == 0 else ("lamina", "bare"):
                    if side == "bare":
                        bare += run_bare(arguments, launch, sizes)
                    else:
                        lamina += run_lamina(arguments, launch, sizes)
            for name, rows in (("bare", bare), ("lamina", lamina)):
                (arguments.out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            print(f"launch {launch + 1} of {arguments.launches} done", file=sys.stderr)
    except (Failed, OSError) as error:
        print(f"compare_bare.py: {error}", file=sys.stderr)
        return 1
    text = table(bare, lamina)
    (arguments.out / "table.md").write_text(text)
    print(text, end="")
    timed = {row["message_bytes"] for row in lamina if row["latency_us_p50"] is not None}
    if without := sorted(set(arguments.bytes) - timed):
        print(f"compare_bare.py: Lamina has no time for {without} bytes; name sizes of configs/{CONFIGS[arguments.device]}, "
              "and see lamina.jsonl for what was skipped", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
