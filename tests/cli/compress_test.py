"""`lamina compress`, what `lamina run` reads of it, and recorded inputs: whole files only, the same bits on any ranks."""

import json
import operator
import os
import random
import struct
import subprocess

from support import LAMINA, Case, lamina, main, tiny

ROWS, COLS, TOKENS = 131, 128, 80

# One of each kind of canonical weights, and what it is called.
SCHEMES = [
    ({"type": "int8"}, "int8"),
    ({"type": "int4", "group": 32, "asymmetric": True}, "int4-g32-asym"),
    ({"type": "int4", "group": 64, "method": "awq", "calibration_tokens": 60}, "int4-g64-awq-c60"),
    ({"type": "fp8"}, "fp8"),
    ({"type": "fp8", "activations": "fp8"}, "fp8-a8"),
    ({"type": "pruned", "pattern": "2:4", "values": {"type": "dense", "dtype": "fp16"}}, "pruned-2:4-fp16"),
    ({"type": "pruned", "pattern": "2:4", "values": {"type": "int8"}}, "pruned-2:4-int8"),
    ({"type": "pruned", "pattern": "block", "block": 8, "values": {"type": "dense", "dtype": "bf16"}},
     "pruned-block8-50%-bf16"),
    ({"type": "lowrank", "rank": 6}, "lowrank-r6"),
    ({"type": "lowrank", "rank": 32, "factors": {"type": "int4", "group": 32}}, "lowrank-r32-int4-g32"),
    ({"type": "sum", "base": {"type": "int4", "group": 32},
      "correction": {"type": "lowrank", "rank": 4, "factors": {"type": "int8"}}}, "sum-int4-g32+lowrank-r4-int8"),
]


def safetensors(**tensors):
    """A file's bytes: name=(rows, cols, numbers), float32."""
    header, data = {}, b""
    for name, (rows, cols, numbers) in tensors.items():
        part = struct.pack(f"<{rows * cols}f", *numbers)
        header[name] = {"dtype": "F32", "shape": [rows, cols], "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def normal(rows, cols, seed):
    draw = random.Random(seed)
    return rows, cols, [draw.gauss(0, 1) for _ in range(rows * cols)]


class Compress(Case):
    def setUp(self):
        super().setUp()
        self.model = self.write("model.safetensors", safetensors(w=normal(ROWS, COLS, 1), other=normal(64, COLS, 2)))
        self.out = self.folder / "out.safetensors"

    def compress(self, scheme, *arguments, ranks=None):
        return lamina("compress", self.model, "--scheme", json.dumps(scheme), "-o", self.out, *arguments, ranks=ranks)

    def measured(self, name, ranks=None, **changes):
        """The rows of a run of w, by their schemes."""
        config = self.write("tiny.json", tiny(**{"in_features": COLS, "out_features": ROWS, "weights": str(self.model),
                                                 "tensor": "w", **changes}))
        self.run_ok("run", config, "-o", self.folder / name, ranks=ranks)
        return {record["scheme"]: record for record in self.records(self.folder / name)}

    def refused(self, result, *words):
        self.assertEqual(result.returncode, 64, result.stdout + result.stderr)
        self.assertNotIn("terminate", result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def leftovers(self):
        return [path.name for path in self.folder.iterdir() if path.name.startswith(".")]

    def test_runs_read_it_bit_for_bit(self):
        for number, (scheme, name) in enumerate(SCHEMES):
            with self.subTest(scheme=name):
                self.assertEqual(self.compress(scheme, "--tensor", "w", "--force").returncode, 0)
                fresh = self.measured(f"fresh{number}", scheme=scheme)[name]
                read = self.measured(f"read{number}", scheme=scheme, compressed=str(self.out))[name]
                for key in ("status", "weight_bytes", "quality_nmse", "quality_max_abs", "check_error", "compress_error",
                            "scheme_rank", "svd_error", "svd_error_bound", "weight_dtype", "activation_dtype"):
                    self.assertEqual(fresh.get(key), read.get(key), key)
                self.assertEqual(read["status"], "ok")
                self.assertEqual(read["svd_error_bound"] is not None, "lowrank" in name)
                # What compressing took is the file's; the codes alone are a byte a weight or half of one.
                self.assertGreater(fresh["compress_peak_bytes"], ROWS * COLS // 2 if "lowrank" not in name else 0)
                self.assertGreater(read["compress_peak_bytes"], 0)
        self.assertEqual(self.leftovers(), [])

    def test_the_file_is_the_same_on_any_number_of_ranks(self):
        self.needs_mpi()
        for scheme, name in SCHEMES:
            with self.subTest(scheme=name):
                files = []
                for ranks in (1, 2, 3, 4):
                    result = self.compress(scheme, "--force", ranks=ranks)
                    self.assertEqual(result.returncode, 0, result.stderr)
                    content = self.out.read_bytes()
                    length = struct.unpack("<Q", content[:8])[0]
                    header = json.loads(content[8:8 + length])
                    self.assertEqual(sorted(key for key in header["__metadata__"] if key != "format"),
                                     [f"other|{name}", f"w|{name}"])
                    del header["__metadata__"]  # seconds and bytes are the launch's
                    files.append((header, content[8 + length:]))
                for other in files[1:]:
                    self.assertEqual(files[0], other)
        spread = self.measured("spread", ranks=3, shard="row", scheme=SCHEMES[-1][0], compressed=str(self.out))
        self.assertEqual(spread[SCHEMES[-1][1]]["status"], "ok")

    def test_stacked_tensors(self):
        self.assertEqual(self.compress({"type": "int8"}, "--tensor", "w,other").returncode, 0)
        rows = self.measured("stacked", out_features=ROWS + 64, tensor=["w", "other"], compressed=str(self.out))
        self.assertEqual(rows["int8"]["status"], "ok")

    def test_what_exists_stays_without_force(self):
        self.out.write_text("precious")
        self.refused(self.compress({"type": "int8"}), "exists", "--force")
        self.assertEqual(self.out.read_text(), "precious")
        self.assertEqual(self.compress({"type": "int8"}, "--force").returncode, 0)
        self.assertNotEqual(self.out.read_bytes()[:8], b"precious")

    def test_wrong_factors_are_not_written(self):
        model = self.write("square.safetensors", safetensors(w=normal(256, 192, 3)))
        for fault, code in (("none", 0), ("garble", 1)):
            self.out.unlink(missing_ok=True)
            done = subprocess.run([os.environ["LAMINA_FAULTS"], fault, model, self.out], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, timeout=120)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertEqual(self.out.exists(), code == 0)
        self.assertIn("w: the factors are wrong: their error is", done.stderr)
        self.assertEqual(self.leftovers(), [])

    def test_bad_usage_leaves_nothing(self):
        for scheme, words in [({"type": "int5"}, ["int5", "did you mean"]), ({"type": "int4", "method": "gtpq"}, ["gtpq"]),
                              ({"type": "int4", "group": 48}, ["48"]), ({"type": "int4", "typo": 1}, ["typo"]),
                              ({"type": "int4", "group": [32, 64]}, ["one scheme"]), ({"type": "lowrank"}, ["rank"])]:
            with self.subTest(scheme=scheme):
                self.refused(self.compress(scheme), *words)
        self.refused(self.compress({"type": "int8"}, "--tensor", "v"), "tensor", '"v"')
        self.refused(lamina("compress", self.model, "--scheme", "{", "-o", self.out), "--scheme")
        self.refused(self.compress({"type": "int8"}, "--tensor", "w", "--tensor", "w"), "once", '"w"')
        self.refused(self.compress({"type": "dense", "dtype": "bf16"}), "--scheme", "dense-bf16")
        self.refused(lamina("compress", self.folder / "none", "--scheme", "int8", "-o", self.out), "none")
        self.refused(lamina("compress", self.model, "--scheme", "int8"), "--out")
        self.refused(lamina("compress", self.model, "--scheme", "int8", "-o", self.model, "--force"), "another file")
        lost = lamina("compress", self.model, "--scheme", "int8", "-o", self.folder / "no" / "out")
        self.assertEqual(lost.returncode, 64)
        self.assertIn("folder", lost.stderr)
        self.assertFalse(self.out.exists())
        self.assertEqual(self.leftovers(), [])

    def test_bad_files_are_said_before_anything_runs(self):
        config = tiny(in_features=COLS, out_features=ROWS, weights=str(self.model), tensor="w", compressed=str(self.out))
        path = self.write("tiny.json", config)
        self.refused(lamina("run", path, "-o", self.folder / "r"), "/experiments/0/compressed", "out.safetensors")
        self.compress({"type": "int4"})
        self.refused(lamina("run", path, "-o", self.folder / "r"), "scheme int8", "w|int4-g128")
        self.compress({"type": "int8"}, "--force", "--tensor", "other")
        self.refused(lamina("run", path, "-o", self.folder / "r"), "other|int8")
        self.write("out.safetensors", self.model.read_bytes())
        self.refused(lamina("run", path, "-o", self.folder / "r"), "lamina compress")
        self.compress({"type": "int8"}, "--force")
        self.out.write_bytes(self.out.read_bytes()[:-1])
        self.refused(lamina("run", path, "-o", self.folder / "r"), "out.safetensors")
        # Made of other weights, of the same norm too: the row says so.
        self.compress({"type": "int8"}, "--force")
        rows, cols, numbers = normal(ROWS, COLS, 1)
        for number, weights in enumerate(([-each for each in numbers], numbers[::-1], numbers[:5] + [0.0] + numbers[6:])):
            self.model.write_bytes(safetensors(w=(rows, cols, weights), other=normal(64, COLS, 2)))
            result = lamina("run", path, "-o", self.folder / f"r{number}")
            self.assertIn("made of other weights", result.stderr)
            self.assertEqual(result.returncode, 1)

    def test_recorded_inputs(self):
        inputs = self.write("inputs.safetensors", safetensors(inputs=normal(TOKENS, COLS, 4), w=normal(TOKENS, COLS, 4)))
        scheme = {"type": "int4", "group": 32, "method": "gptq", "calibration_tokens": TOKENS - 16}
        rows = self.measured("recorded", inputs=str(inputs), scheme=scheme)
        name = f"int4-g32-gptq-c{TOKENS - 16}"
        self.assertEqual(rows[name]["status"], "ok")
        self.assertLess(rows["dense-f32"]["quality_nmse"], 1e-10)
        synthetic = self.measured("synthetic", scheme=scheme)
        self.assertNotEqual(rows[name]["quality_nmse"], synthetic[name]["quality_nmse"])
        # The same calibration when it is compressed before.
        self.assertEqual(self.compress(scheme, "--tensor", "w", "--inputs", inputs).returncode, 0)
        read = self.measured("read", inputs=str(inputs), scheme=scheme, compressed=str(self.out))
        self.assertEqual(read[name]["quality_nmse"], rows[name]["quality_nmse"])
        self.assertNotIn("calibrated by", " ".join(read[name]["warnings"]))
        # And another one: the row says what it was.
        for changes in ({}, {"correlation": 0.25}):
            other = self.measured(f"other{len(changes)}", scheme=scheme, compressed=str(self.out), **changes)[name]
            self.assertIn(f"calibrated by {TOKENS - 16} recorded tokens, digest ", " ".join(other["warnings"]))
            self.assertIn(f"by {TOKENS - 16} synthetic tokens of {COLS}x{ROWS}, seed 1", " ".join(other["warnings"]))

    def test_quality_is_of_as_many_tokens_as_asked_for(self):
        """From the last backwards, whatever a step's own tokens: against plain Python."""
        numbers = normal(TOKENS, COLS, 4)[2]
        inputs = self.write("inputs.safetensors", safetensors(inputs=(TOKENS, COLS, numbers)))
        config = tiny(in_features=COLS, out_features=ROWS, weights=str(self.model), tensor="w", inputs=str(inputs),
                      tokens=[1, 7], quality_tokens=[5, 40], scheme={"type": "int8", "activations": "f32"})
        self.run_ok("run", self.write("tokens.json", config), "-o", self.folder / "tokens")
        rows = [record for record in self.records(self.folder / "tokens") if record["scheme"] == "int8-a32"]
        self.assertEqual(sorted((row["tokens"], row["quality_tokens"]) for row in rows), [(1, 5), (1, 40), (7, 5), (7, 40)])
        content = self.model.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        begin = 8 + size + json.loads(content[8:8 + size])["w"]["data_offsets"][0]
        w = struct.unpack(f"<{ROWS * COLS}f", content[begin:begin + 4 * ROWS * COLS])
        for row in rows:
            lost = whole = 0
            for i in range(ROWS):
                weights = w[i * COLS:(i + 1) * COLS]
                scale = max(map(abs, weights)) / 127
                errors = [one - scale * round(one / scale) for one in weights]
                for t in range(TOKENS - row["quality_tokens"], TOKENS):
                    x = numbers[t * COLS:(t + 1) * COLS]
                    lost += sum(map(operator.mul, errors, x)) ** 2
                    whole += sum(map(operator.mul, weights, x)) ** 2
            self.assertAlmostEqual(row["quality_nmse"], lost / whole, delta=1e-3 * lost / whole)
            self.assertEqual(row["weights_source"], f"{self.model} w")

    def test_the_calibration_of_a_file_is_known(self):
        scheme, name = {"type": "int4", "group": 32, "method": "mse", "calibration_tokens": 60}, "int4-g32-mse-c60"
        self.assertEqual(self.compress(scheme, "--tensor", "w").returncode, 0)
        same = self.measured("same", scheme=scheme, compressed=str(self.out))[name]
        self.assertFalse([text for text in same["warnings"] if "calibrated by" in text], same["warnings"])
        for knob in ({"correlation": 0.25}, {"outlier_gain": 5}, {"outlier_share": 0.05}):
            other = self.measured("other" + "".join(knob), scheme=scheme, compressed=str(self.out), **knob)[name]
            self.assertEqual(other["status"], "ok")
            self.assertIn("was calibrated by 60 synthetic tokens", " ".join(other["warnings"]))
        # Of what looks at no tokens nothing can differ.
        self.assertEqual(self.compress({"type": "int8"}, "--tensor", "w", "--force").returncode, 0)
        plain = self.measured("plain", compressed=str(self.out), correlation=0.25)["int8"]
        self.assertNotIn("calibrated", " ".join(plain["warnings"]))

    def test_a_block_reads_recorded_inputs_and_compressed_weights(self):
        self.needs_mpi()
        hidden, wide = 64, 96
        gate, up, down = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
        model = self.write("config.json", {"hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": 1,
                                           "num_attention_heads": 1})
        self.model = self.write("model.safetensors", safetensors(**{
            gate: normal(wide, hidden, 1), up: normal(wide, hidden, 2), down: normal(hidden, wide, 3)}))
        inputs = self.write("inputs.safetensors", safetensors(**{
            "inputs": normal(TOKENS, hidden, 4), gate: normal(TOKENS, hidden, 4), down: normal(TOKENS, wide, 5)}))
        changes = {"workload": "mlp", "in_features": None, "out_features": None, "model": str(model),
                   "weights": str(self.model)}

        def block(name, scheme, ranks=None, **more):
            config = self.write("mlp.json", tiny(**changes, scheme=scheme, **more))
            self.run_ok("run", config, "-o", self.folder / name, ranks=ranks)
            return {record["scheme"]: record for record in self.records(self.folder / name)}

        # Inputs decide what is measured, and what is calibrated, on any number of ranks.
        gptq = {"type": "int4", "group": 32, "method": "gptq", "calibration_tokens": TOKENS - 16}
        name = f"int4-g32-gptq-c{TOKENS - 16}"
        synthetic, recorded = block("synthetic", gptq), block("recorded", gptq, inputs=str(inputs))
        spread = block("spread", gptq, inputs=str(inputs), ranks=3, shard="column-row")
        self.assertEqual(recorded[name]["status"], "ok")
        self.assertLess(recorded["dense-f32"]["quality_nmse"], 1e-10)
        self.assertNotEqual(recorded[name]["compress_error"], synthetic[name]["compress_error"])
        self.assertAlmostEqual(spread[name]["compress_error"], recorded[name]["compress_error"], delta=1e-12)
        self.assertAlmostEqual(spread[name]["quality_nmse"], recorded[name]["quality_nmse"], delta=1e-6)
        # What needs no calibration is read bit for bit.
        tensors = ("--tensor", f"{gate},{up}", "--tensor", down)
        self.assertEqual(self.compress({"type": "int8"}, *tensors).returncode, 0)
        fresh = block("fresh", {"type": "int8"}, inputs=str(inputs))["int8"]
        for ranks in (None, 3):
            read = block(f"read{ranks}", {"type": "int8"}, inputs=str(inputs), compressed=str(self.out), ranks=ranks)["int8"]
            for key in ("status", "weight_bytes", "quality_nmse"):
                self.assertEqual(read[key], fresh[key], key)
            self.assertAlmostEqual(read["compress_error"], fresh["compress_error"], delta=1e-12)
        # What does says by what: of gate_up the same tokens, of down its own recorded ones.
        self.assertEqual(self.compress(gptq, *tensors, "--inputs", inputs, "--force").returncode, 0)
        read = block("calibrated", gptq, inputs=str(inputs), compressed=str(self.out))[name]
        self.assertEqual(read["status"], "ok")
        said = [text for text in read["warnings"] if "calibrated by" in text]
        self.assertEqual(len(said), 1, read["warnings"])
        self.assertIn(f'"{down}" was calibrated by', said[0])
        self.assertIn("what gate_up_proj makes of", said[0])
        # What a file lacks is said before anything runs.
        for more, words in [({"inputs": str(inputs), "inputs_tensor": down}, ["/inputs", f"[tokens, {hidden}]"]),
                            ({"inputs": str(self.folder / "none")}, ["/inputs", "none"]),
                            ({"compressed": str(self.out), "scheme": {"type": "int8"}}, ["/compressed", "scheme int8"]),
                            ({"compressed": str(self.out), "weights": None}, ["/compressed", "weights"])]:
            with self.subTest(more=more):
                config = {**changes, "scheme": gptq, **more}
                self.refused(lamina("run", self.write("mlp.json", tiny(**config)), "-o", self.folder / "r"), *words)

    def test_recorded_cotangents(self):
        self.needs_mpi()
        numbers = [float(i % ROWS == 7) + 0.01 for i in range(TOKENS * ROWS)]
        inputs = self.write("inputs.safetensors", safetensors(inputs=normal(TOKENS, COLS, 4)))
        deltas = self.write("deltas.safetensors", safetensors(cotangents=(TOKENS, ROWS, numbers)))
        scheme = {"type": "pruned", "importance": "gradient", "threshold": "global", "calibration_tokens": 60}
        rows = {}
        for ranks in (1, 3):
            rows[ranks] = self.measured(f"r{ranks}", inputs=str(inputs), cotangents=str(deltas), scheme=scheme,
                                        ranks=ranks, shard="column")
        name = "pruned-50%-gradient-global-c60"
        self.assertEqual(rows[1][name]["status"], "ok")
        self.assertAlmostEqual(rows[1][name]["compress_error"], rows[3][name]["compress_error"], delta=1e-12)
        self.assertGreater(rows[3][name]["compress_comm_bytes"], 0)
        self.assertEqual(rows[1][name]["compress_comm_bytes"], 0)

    def test_a_block_is_calibrated_alike_on_any_ranks(self):
        self.needs_mpi()
        scheme = [{"type": "int4", "group": 32}, {"type": "int4", "group": 32, "method": "gptq", "calibration_tokens": 300}]
        found = {}
        for ranks in (1, 3):
            config = self.write("mlp.json", tiny(workload="mlp", in_features=None, out_features=None, hidden=160,
                                                 intermediate=320, shard="column-row", quality_tokens=24, scheme=scheme))
            self.run_ok("run", config, "-o", self.folder / f"mlp{ranks}", ranks=ranks)
            found[ranks] = {record["scheme"]: record for record in self.records(self.folder / f"mlp{ranks}")}
        plain, gptq = "int4-g32", "int4-g32-gptq-c300"
        self.assertAlmostEqual(found[1][gptq]["compress_error"], found[3][gptq]["compress_error"], delta=1e-12)
        self.assertLess(found[1][gptq]["quality_nmse"], 0.9 * found[1][plain]["quality_nmse"])
        for name in (plain, gptq):
            self.assertEqual(found[3][name]["quality_tokens"], 24)
            self.assertAlmostEqual(found[3][name]["quality_nmse"] / found[1][name]["quality_nmse"], 1, delta=1e-4)

    def test_bad_recorded_files(self):
        gaps = normal(TOKENS, COLS, 4)
        gaps[2][500] = float("nan")
        inputs = self.write("inputs.safetensors", safetensors(
            inputs=normal(TOKENS, COLS, 4), narrow=normal(TOKENS, COLS - 1, 5), gaps=gaps))
        deltas = self.write("deltas.safetensors", safetensors(
            cotangents=normal(TOKENS, ROWS + 1, 6), few=normal(TOKENS - 1, ROWS, 6)))
        scheme = {"type": "pruned", "importance": "gradient", "calibration_tokens": 60}
        for changes, words in [
            ({"inputs": str(inputs), "inputs_tensor": "narrow"}, ["/inputs", "[tokens, 128]", "127"]),
            ({"inputs": str(inputs), "inputs_tensor": "gaps"}, ["/inputs", "nan"]),
            ({"inputs": str(inputs), "inputs_tensor": "input"}, ["/inputs", 'did you mean "inputs"']),
            ({"inputs": str(inputs), "scheme": {**scheme, "calibration_tokens": 70}}, ["/inputs", "at least 86"]),
            ({"inputs": str(inputs), "quality_tokens": 30}, ["/inputs", "at least 90", "30 others"]),
            ({"inputs_tensor": "inputs"}, ["/inputs_tensor", "beside"]),
            ({"cotangents": str(deltas)}, ["/cotangents", "[tokens, 131]", "132"]),
            ({"inputs": str(inputs), "cotangents": str(deltas), "cotangents_tensor": "few"}, ["/cotangents", "80 tokens"]),
            ({"inputs": str(self.folder / "none")}, ["/inputs", "none"]),
        ]:
            with self.subTest(changes=changes):
                config = {"in_features": COLS, "out_features": ROWS, "weights": str(self.model), "tensor": "w",
                          "scheme": scheme, **changes}
                self.refused(lamina("run", self.write("tiny.json", tiny(**config)), "-o", self.folder / "r"), *words)
                self.assertFalse((self.folder / "r").exists())
        # And of `compress`, which takes a tensor of the weights' own name.
        bad = self.write("bad.safetensors", safetensors(w=gaps))
        wide = self.write("wide.safetensors", safetensors(w=normal(TOKENS, ROWS + 1, 6)))
        good = self.write("good.safetensors", safetensors(w=normal(TOKENS, COLS, 4)))
        self.refused(self.compress(scheme, "--tensor", "w", "--inputs", bad), "bad.safetensors", "nan")
        self.refused(self.compress(scheme, "--tensor", "w", "--inputs", good, "--cotangents", wide), "[tokens, 131]", "132")
        self.assertFalse(self.out.exists())
        self.assertEqual(self.leftovers(), [])

    def test_what_dies_midway_leaves_the_file_as_it_was(self):
        """A full disk, as a limit on files' sizes has it: after half the matrix, on every rank."""
        self.compress({"type": "int8"}, "--tensor", "w")
        before = self.out.read_bytes()
        # 16 KiB of header and more for each entry come before the data, so this ends within the codes.
        limit = f"ulimit -f {(8 + 4096 + 16384 + ROWS * COLS // 2) // 1024}; trap '' XFSZ; exec "
        words = [LAMINA, "compress", str(self.model), "--scheme", "int8", "--tensor", "w", "--force", "-o", str(self.out)]
        # Open MPI's own files, of its start and between ranks, would meet the limit first.
        env = {**os.environ, "PMIX_MCA_gds": "hash", "OMPI_MCA_btl": "self"}
        result = subprocess.run(["bash", "-c", limit + '"$@"', "bash", *words], capture_output=True, text=True, env=env)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("cannot write", result.stderr)
        self.assertEqual(self.out.read_bytes(), before)
        self.assertEqual(self.leftovers(), [])


if __name__ == "__main__":
    main()
