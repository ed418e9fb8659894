"""What configs/cpu-limits.json covers, and scripts/check_cpu_limits.py on rows made up for it."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from support import ROOT, lamina

CONFIG = ROOT / "configs" / "cpu-limits.json"
CHECK = ROOT / "scripts" / "check_cpu_limits.py"

LEAST_BYTES = 60_000_000  # so that weights come from memory, whatever the cache
DOUBLINGS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
PEERS = {"onednn", "onednn-u8s8", "blis", "libxsmm", "csr"}
GATE_UP_BYTES_A_WEIGHT = {  # of gate_up_proj as stored, at least
    "dense-f32": 4, "dense-bf16": 2, "int8": 1, "int4-g128": 0.53, "int4-g128-a8": 0.53, "fp8": 1, "pruned-2:4": 2.125,
    "pruned-2:4-bf16": 1.125, "pruned-2:4-int8": 0.625, "pruned-50%": 2.125, "pruned-75%": 1.125,
    "pruned-block16-50%": 2, "pruned-block32-50%": 2,
}


def dry_run():
    """The cases that the config expands to, as (layer, tokens, scheme, kernel, threads)."""
    with tempfile.TemporaryDirectory() as configs:
        # A small model of that name: what it expands to is the same, and no machine lacks the memory.
        model = Path(configs, "models", "llama-3-8b.json")
        model.parent.mkdir()
        sizes = json.loads((ROOT / "configs" / "models" / model.name).read_text())
        model.write_text(json.dumps({**sizes, "hidden_size": 1024, "intermediate_size": 3584}))
        with mock.patch.dict(os.environ, LAMINA_CONFIGS=configs):
            result = lamina("run", CONFIG, "--dry-run")
    if result.returncode != 0:
        raise AssertionError(result.stderr)
    cases = set()
    for word in result.stdout.split():
        if word.startswith("layer/llama-3-8b/"):
            _, _, layer, tokens, scheme, kernel, _, team, _ = word.split("/")
            cases.add((layer, int(tokens[1:]), scheme, kernel.removeprefix("cpu-"), int(team.split("t")[1])))
    return cases


class Config(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cases = dry_run()

    def test_every_scheme_meets_every_token_count_on_one_and_all_threads(self):
        for scheme in GATE_UP_BYTES_A_WEIGHT:
            for threads in (1, 2):
                tokens = sorted(m for layer, m, s, kernel, t in self.cases
                                if (layer, s, kernel, t) == ("gate_up_proj", scheme, "native", threads))
                self.assertEqual(tokens, DOUBLINGS, f"{scheme}, {threads} threads")

    def test_weights_are_large(self):
        for scheme, bytes_a_weight in GATE_UP_BYTES_A_WEIGHT.items():
            self.assertGreaterEqual(4096 * 28672 * bytes_a_weight, LEAST_BYTES, scheme)

    def test_every_peer_is_beside_decoding_and_prefill(self):
        for peer in PEERS:
            tokens = {m for layer, m, _, kernel, _ in self.cases if kernel == peer and layer == "gate_up_proj"}
            self.assertLessEqual({1, 16, 512}, tokens, peer)

    def test_small_groups_and_low_rank_are_there(self):
        for scheme in ("int4-g32-a8", "int4-g64-a8", "lowrank-r512", "dense-bf16-a16"):
            tokens = {m for layer, m, s, kernel, _ in self.cases
                      if (layer, s, kernel) == ("gate_up_proj", scheme, "native")}
            self.assertLessEqual({1, 16, 512}, tokens, scheme)

    def test_other_layers_are_there(self):
        for layer in ("o_proj", "down_proj"):
            schemes = {scheme for at, _, scheme, _, _ in self.cases if at == layer}
            self.assertIn("lowrank-r512", schemes)
            self.assertGreaterEqual(len(schemes), 8)


def row(scheme, tokens, us, **changes):
    return {"case": f"{scheme}/{tokens}/{changes.get('kernel', 'native')}", "status": "ok", "layer": "gate_up_proj",
            "scheme": scheme, "kernel": "native", "ranks": 1, "threads": 1, "cache": "cold", "isa": "avx2",
            "tokens": tokens, "latency_us_p50": us, "limit_fraction": 0.95, "limit_kind": "memory",
            "gflops_executed": 200.0, "speedup_vs_dense": 2.0, **changes}


class Check(unittest.TestCase):
    def check(self, *rows):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            return subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True)

    def assert_lists(self, result, *lines):
        self.assertEqual(result.returncode, 1)
        for line in lines:
            self.assertIn(line, result.stdout)

    def test_passes_what_is_smooth_and_fast(self):
        result = self.check(row("int8", 1, 10), row("int8", 2, 10.4), row("int8", 4, 21.8), row("int8", 16, 80))
        self.assertEqual((result.returncode, result.stderr), (0, ""), result.stdout)

    def test_lists_cliffs(self):
        result = self.check(row("int8", 1, 10), row("int8", 2, 22), row("int8", 4, 20))
        self.assert_lists(result, "m2 int8 native 1 threads: 2.20 times as long as 1 tokens",
                          "m4 int8 native 1 threads: 0.91 times as long as 2 tokens")

    def test_lists_what_is_under_its_target(self):
        result = self.check(row("fp8", 1, 10, limit_fraction=0.79), row("pruned-2:4", 8, 10, limit_fraction=0.59),
                            row("int8", 512, 10, gflops_executed=140.0), row("int8", 512, 12, kernel="onednn"),
                            row("dense-f32", 512, 10), row("dense-f32", 512, 9, kernel="openblas"))
        self.assert_lists(result, "m1 fp8 native 1 threads: 79% of the memory limit, not 80%",
                          "m8 pruned-2:4 native 1 threads: 59% of the memory limit, not 60%",
                          "m512 int8 native 1 threads: 70 GMAC/s a thread, not 75",
                          "m512 int8 native 1 threads: 1.20 times as fast as onednn, not 1.25",
                          "m512 dense-f32 native 1 threads: 0.90 times as fast as openblas, not 1")

    def test_lists_what_cannot_be_held_to_its_target(self):
        self.assert_lists(self.check(row("int8", 1, 10, status="error")), "no row has a time")
        result = self.check(row("dense-f32", 512, 10), row("int8", 1, 10, limit_fraction=None),
                            row("int8", 512, 10, isa="amx", layer="down_proj"),
                            row("int4-g128-a8", 1, 10, isa="amx", layer="down_proj", limit_fraction=0.84),
                            row("pruned-75%", 1, 10, speedup_vs_dense=0.9))
        self.assert_lists(result, "m512 dense-f32 native 1 threads: no openblas beside it",
                          "m1 int8 native 1 threads: no share of a limit",
                          "down_proj m512 int8 native 1 threads: no onednn beside it",
                          "down_proj m1 int4-g128-a8 native 1 threads: 84% of the memory limit, not 85%",
                          "m1 pruned-75% native 1 threads: 0.90 times as fast as dense float32")

    def test_says_what_it_wants(self):
        self.assertEqual(subprocess.run([sys.executable, CHECK], capture_output=True).returncode, 64)
        missing = subprocess.run([sys.executable, CHECK, "no/such/run"], capture_output=True, text=True)
        self.assertEqual(missing.returncode, 64)
        self.assertIn("expected a folder with records.jsonl", missing.stderr)


if __name__ == "__main__":
    unittest.main()
