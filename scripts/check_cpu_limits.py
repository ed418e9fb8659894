#!/usr/bin/env python3
"""Holds a run of configs/cpu-limits.json to what the CPU kernels are meant to reach.

    scripts/check_cpu_limits.py RUN...        RUN: a folder with records.jsonl

Lists rows under their targets, and cliffs: between neighbouring token counts M < N of one kernel and layer, where
the time grows by more than 1.05 · N/M (2.1 for a doubling) or falls by more than noise. Targets are gate_up_proj's, on
processors with AVX-512 down_proj's too, of which configs/cpu-scaling.json has rows. What is to be beside a peer and has
none, or a run without a time, is listed as well. Exit codes: 0 nothing listed, 1 something is, 64 no such run.
"""

import json
import sys
from pathlib import Path

LARGEST_GROWTH = 1.05  # over the growth of the token count
NOISE = 0.05           # by which a time may fall
LEAST_SHARE = 0.60     # of a row's limit, between the token counts of decoding and of prefill

# Share of the limit at one token: on one thread, on more.
AT_ONE_TOKEN = {
    "dense-f32": (0.90, 0.90), "dense-bf16": (0.90, 0.90), "dense-bf16-a16": (0.90, 0.90), "int8": (0.90, 0.85), "int4-g128-a8": (0.90, 0.85),
    "fp8": (0.80, 0.80), "pruned-2:4": (0.80, 0.80), "pruned-2:4-bf16": (0.80, 0.80), "pruned-2:4-int8": (0.60, 0.60),
    "pruned-50%": (0.60, 0.60), "pruned-75%": (0.60, 0.60), "pruned-block16-50%": (0.80, 0.80),
    "pruned-block32-50%": (0.80, 0.80),
}
# With AVX-512 the instructions are others and every scheme is held to one figure.
AT_ONE_TOKEN_WIDE = 0.85
# 10⁹ multiply-adds a second and thread at 512 tokens, and shares of the limit there. AVX2 only: wider ones do more.
RATE_AT_512 = {"int8": 75, "int4-g128-a8": 100}
SHARE_AT_512 = {"pruned-block16-50%": 0.70, "pruned-block32-50%": 0.70, "pruned-75%": 0.35}


def load(run):
    """The last record of every case that has a time."""
    rows = {}
    for line in (Path(run) / "records.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # torn
        rows[row["case"]] = row
    return [row for row in rows.values() if row["status"] == "ok"]


def key(row, *without):
    return tuple(row[name] for name in ("layer", "scheme", "kernel", "ranks", "threads", "cache") if name not in without)


def name(row):
    return f"{row['layer']} m{row['tokens']} {row['scheme']} {row['kernel']} {row['threads']} threads"


def cliffs(rows):
    """A text for each pair of neighbouring token counts whose times do not follow from each other."""
    found = []
    series = {}
    for row in rows:
        if row["kernel"] == "native":
            series.setdefault(key(row), {})[row["tokens"]] = row
    for by_tokens in series.values():
        counts = sorted(by_tokens)
        for few, many in zip(counts, counts[1:]):
            growth = by_tokens[many]["latency_us_p50"] / by_tokens[few]["latency_us_p50"]
            if growth > LARGEST_GROWTH * many / few:
                found.append(f"{name(by_tokens[many])}: {growth:.2f} times as long as {few} tokens")
            elif growth < 1 - NOISE:
                found.append(f"{name(by_tokens[many])}: {growth:.2f} times as long as {few} tokens, which are fewer")
    return found


def misses(rows):
    """A text for each row of a native kernel that stays under its target or cannot be held to it."""
    found = [] if rows else ["no row has a time"]
    peers = {}
    for row in rows:
        if row["kernel"] != "native":
            peers[key(row, "kernel") + (row["kernel"], row["tokens"])] = row

    def share(row, least):
        if row["limit_fraction"] is None:
            found.append(f"{name(row)}: no share of a limit, {least:.0%} is wanted")
        elif row["limit_fraction"] < least:
            found.append(f"{name(row)}: {row['limit_fraction']:.0%} of the {row['limit_kind']} limit, not {least:.0%}")

    def beside(row, kernel, least, wanted=True):
        peer = peers.get(key(row, "kernel") + (kernel, row["tokens"]))
        if peer is None:
            if wanted:
                found.append(f"{name(row)}: no {kernel} beside it, {least} times as fast is wanted")
        elif peer["latency_us_p50"] < least * row["latency_us_p50"]:
            ratio = peer["latency_us_p50"] / row["latency_us_p50"]
            found.append(f"{name(row)}: {ratio:.2f} times as fast as {kernel}, not {least}")

    for row in rows:
        scheme, tokens, narrow = row["scheme"], row["tokens"], row["isa"] in ("portable", "avx2")
        if row["kernel"] != "native" or row["layer"] not in ("gate_up_proj", *(() if narrow else ("down_proj",))):
            continue
        if tokens == 1 and scheme in AT_ONE_TOKEN:
            target = AT_ONE_TOKEN[scheme][row["threads"] > 1]
            share(row, target if narrow else min(target, AT_ONE_TOKEN_WIDE))
        if 2 <= tokens <= 256:
            share(row, LEAST_SHARE)
        if tokens == 512:
            rate = row["gflops_executed"] / 2 / row["threads"]
            if narrow and rate < RATE_AT_512.get(scheme, 0):
                found.append(f"{name(row)}: {rate:.0f} GMAC/s a thread, not {RATE_AT_512[scheme]}")
            if narrow and scheme in SHARE_AT_512:
                share(row, SHARE_AT_512[scheme])
            if scheme == "int8":
                beside(row, "onednn", 1.25 if narrow else 1, wanted=not narrow)  # without VNNI oneDNN's saturates
            if scheme == "dense-f32" and row["layer"] == "gate_up_proj":
                beside(row, "openblas", 1)
        if scheme in ("pruned-50%", "pruned-75%") and tokens == 1 and row["speedup_vs_dense"] is not None and row["speedup_vs_dense"] <= 1:
            found.append(f"{name(row)}: {row['speedup_vs_dense']:.2f} times as fast as dense float32")
    return found


def main(runs):
    if not runs:
        print(__doc__.strip(), file=sys.stderr)
        return 64
    listed = 0
    for run in runs:
        try:
            rows = load(run)
        except OSError as error:
            print(f"{run}: expected a folder with records.jsonl of `lamina run`: {error}", file=sys.stderr)
            return 64
        for title, lines in (("cliffs", cliffs(rows)), ("under their targets", misses(rows))):
            print(f"{run}: {len(rows)} rows, {len(lines)} {title}")
            for line in lines:
                print(f"  {line}")
            listed += len(lines)
    return 1 if listed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
