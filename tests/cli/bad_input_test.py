"""Every bad input: exit 64, all errors at once with file and place, nothing left behind, on any number of ranks."""

import json
import struct

from support import Case, lamina, main, svd, tiny

DEEP = 70


def changed(**changes):
    return json.dumps(tiny(**changes))


def top(**changes):
    return json.dumps({**tiny(), **changes})


def scheme(**keys):
    return changed(scheme=keys)


def factorised(**keys):
    return json.dumps(svd(**keys))


E0 = "/experiments/0"

# What is wrong, the config's text, and (pointer, part of the message) of every error that must be said.
TABLE = [
    ("unknown key of an experiment", changed(token=3), [(f"{E0}/token", "tokens")]),
    ("unknown key of the top level", top(sed=1), [("/sed", "seed")]),
    ("unknown key of measure", top(measure={"max_second": 1}), [("/measure/max_second", "max_seconds")]),
    ("unknown key of a scheme", scheme(type="int4", gruop=64), [(f"{E0}/scheme/gruop", "group")]),
    ("key that belongs to another choice", scheme(type="pruned", pattern="2:4", sparsity=0.5),
     [(f"{E0}/scheme/sparsity", "")]),
    ("unknown key of a pruned scheme's values", scheme(type="pruned", values={"type": "int8", "grup": 64}),
     [(f"{E0}/scheme/values/grup", "unknown key")]),
    ("pruned values of a pruned scheme", scheme(type="pruned", values={"type": "pruned"}),
     [(f"{E0}/scheme/values/type", "a scheme of one matrix")]),
    ("unknown workload", changed(workload="layr"), [(f"{E0}/workload", "layer")]),
    ("unknown scheme", scheme(type="int5"), [(f"{E0}/scheme/type", "int4")]),
    ("unknown device", changed(device="gpu"), [(f"{E0}/device", "cpu")]),
    ("unknown kernel", changed(kernel="natve"), [(f"{E0}/kernel", "native")]),
    ("unknown shard", changed(shard="columns"), [(f"{E0}/shard", "column")]),
    ("unknown type of sums", changed(shard="row", sum_dtype="bfloat16"), [(f"{E0}/sum_dtype", "bf16")]),
    ("sums of another type than collectives have", changed(sum_dtype="int8"), [(f"{E0}/sum_dtype", "int8")]),
    ("type of sums as a number", changed(sum_dtype=16), [(f"{E0}/sum_dtype", "16")]),
    ("sums of a factorisation", factorised(sum_dtype="bf16"), [(f"{E0}/sum_dtype", "")]),
    ("no workload", changed(workload=None), [(E0, "workload")]),
    ("no scheme", changed(scheme=None), [(E0, "scheme")]),
    ("tokens as text", changed(tokens="1"), [(f"{E0}/tokens", "an integer")]),
    ("tokens as fraction", changed(tokens=1.5), [(f"{E0}/tokens", "1.5")]),
    ("tokens as object", changed(tokens={"from": 1}), [(f"{E0}/tokens", "an object")]),
    ("scheme as text", changed(scheme="int8"), [(f"{E0}/scheme", "an object")]),
    ("workload as number", changed(workload=7), [(f"{E0}/workload", "7")]),
    ("seed as text", top(seed="1"), [("/seed", "an integer")]),
    ("negative size", changed(in_features=-256), [(f"{E0}/in_features", "-256")]),
    ("zero size", changed(out_features=0), [(f"{E0}/out_features", "0")]),
    ("zero tokens", changed(tokens=0), [(f"{E0}/tokens", "0")]),
    ("huge size", changed(in_features=2**62), [(f"{E0}/in_features", "4611686018427387904")]),
    ("size past 64 bits", changed(in_features=10**30), [(f"{E0}/in_features", "64 bits")]),
    ("tokens past a double", changed().replace('"tokens": 1', '"tokens": 1e999'), [(f"{E0}/tokens", "double")]),
    ("duplicate key", changed().replace('"tokens": 1', '"tokens": 1, "tokens": 2'), [(f"{E0}/tokens", "duplicate")]),
    ("depth over 64", "[" * DEEP + "]" * DEEP, [(None, "64")]),
    ("depth that would overflow a stack", "[" * 200000, [(None, "64")]),
    ("byte-order mark", "\ufeff" + changed(), [("", "byte-order mark")]),
    ("trailing comma", changed()[:-1] + ",}", [("", "line 1")]),
    ("empty file", "", [("", "nothing")]),
    ("text after the value", changed() + "x", [("", "line 1")]),
    ("bytes that are not UTF-8", b'{"name": "\xff"}', [(None, "")]),
    ("NaN", changed().replace('"tokens": 1', '"tokens": NaN'), [(None, "line 1")]),
    ("an array", "[]", [("", "an empty array")]),
    ("empty sweep", changed(tokens=[]), [(f"{E0}/tokens", "at least one value")]),
    ("no experiment", top(experiments=[]), [("/experiments", "at least one")]),
    ("null", changed(tokens=None).replace('"workload"', '"tokens": null, "workload"'), [(f"{E0}/tokens", "null")]),
    ("more than 100000 cases", changed(tokens=list(range(1, 1001)), threads=list(range(1, 102))),
     [("/experiments", "--yes")]),
    ("a case count that overflows", changed(**{f"k{i}": list(range(2000)) for i in range(8)}),
     [("/experiments", "more than")]),
    ("unknown method of quantizing", scheme(type="int4", method="gtpq"), [(f"{E0}/scheme/method", "gptq")]),
    ("calibration that the method has no use for", scheme(type="int4", calibration_tokens=64, act_order=True),
     [(f"{E0}/scheme/calibration_tokens", "rtn"), (f"{E0}/scheme/act_order", "gptq")]),
    ("damping of a method without a Gram", scheme(type="int4", method="awq", damping=0.1),
     [(f"{E0}/scheme/damping", "awq")]),
    ("strength of plain codes", scheme(type="int8", strength=0.7), [(f"{E0}/scheme/strength", "smooth")]),
    ("no damping at all", scheme(type="int4", method="gptq", damping=0), [(f"{E0}/scheme/damping", "1e-06")]),
    ("unknown importance", scheme(type="pruned", importance="wanda"), [(f"{E0}/scheme/importance", "activation")]),
    ("calibration of magnitudes", scheme(type="pruned", calibration_tokens=64),
     [(f"{E0}/scheme/calibration_tokens", "compensate")]),
    ("factors that want the layer's inputs", scheme(type="lowrank", rank=128, factors={"type": "int4", "method": "mse"}),
     [(f"{E0}/scheme/factors", "inputs of the layer")]),
    ("a correction that is none", scheme(type="sum", base={"type": "int8"}, correction={"type": "int4"}),
     [(f"{E0}/scheme/correction/type", "lowrank")]),
    ("a correction of nothing", scheme(type="sum", base={"type": "dense"}, correction={"type": "lowrank", "rank": 1}),
     [(f"{E0}/scheme/base/type", "int4")]),
    ("group that does not divide K", changed(in_features=200, scheme={"type": "int4", "group": 64}),
     [(f"{E0}/scheme/group", "200")]),
    ("pattern that does not divide K", changed(in_features=255, scheme={"type": "pruned", "pattern": "2:4"}),
     [(f"{E0}/scheme/pattern", "255")]),
    ("rank over min(N, K)", scheme(type="lowrank", rank=129), [(f"{E0}/scheme/rank", "128")]),
    ("two rules for the rank", scheme(type="lowrank", rank=8, ratio=0.1), [(None, "ratio")]),
    ("sparsity of one", scheme(type="pruned", pattern="unstructured", sparsity=1), [(f"{E0}/scheme/sparsity", "1")]),
    ("unknown model", changed(model="llama-3-8bb", layer="o_proj", in_features=None, out_features=None),
     [(f"{E0}/model", "llama-3-8b")]),
    ("unknown layer", changed(model="llama-3-8b", layer="o_porj", in_features=None, out_features=None),
     [(f"{E0}/layer", "o_proj")]),
    ("model and sizes", changed(model="llama-3-8b", layer="o_proj"), [(f"{E0}/model", "both")]),
    ("one size alone", changed(out_features=None), [(E0, "out_features")]),
    ("more memory than a rank has", changed(in_features=2**24, out_features=2**24),
     [(E0, "m1/int8")]),
    ("missing weights", changed(weights="none.safetensors", tensor="w"), [(f"{E0}/weights", "none.safetensors")]),
    ("tensor without weights", changed(tensor="w"), [(f"{E0}/tensor", "weights")]),
    ("unknown method", factorised(method="grm"), [(f"{E0}/method", "gram")]),
    ("unknown eigensolver", factorised(eigensolver="arpack"), [(f"{E0}/eigensolver", "elpa")]),
    ("unknown layout", factorised(layout="cyclic"), [(f"{E0}/layout", "block-cyclic")]),
    ("unknown scaling", factorised(scaling="both"), [(f"{E0}/scaling", "weak")]),
    ("tokens of a factorisation", factorised(tokens=1), [(f"{E0}/tokens", "unknown key")]),
    ("no rule for the rank of a factorisation", factorised(rank=None), [(E0, "exactly one of rank, ratio, energy")]),
    ("two rules for the rank of a factorisation", factorised(energy=0.5), [(E0, "found 2")]),
    ("rank zero", factorised(rank=0), [(f"{E0}/rank", "0")]),
    ("rank over min(N, K) of a factorisation", factorised(rank=[16, 257]), [(f"{E0}/rank/1", "256")]),
    ("ratio below rank 1", factorised(rank=None, ratio=0.001), [(f"{E0}/ratio", "at least")]),
    ("energy of one", factorised(rank=None, energy=1), [(f"{E0}/energy", "1")]),
    ("error over one", factorised(rank=None, error=1.5), [(f"{E0}/error", "1.5")]),
    ("one side of a grid", factorised(method="scalapack", grid_rows=1), [(f"{E0}/grid_rows", "both")]),
    ("block of zero", factorised(method="scalapack", block=0), [(f"{E0}/block", "0")]),
    ("oversampling as text", factorised(method="randomized", oversampling="8"), [(f"{E0}/oversampling", "an integer")]),
    ("model and sizes of a factorisation", factorised(model="llama-3-8b", layer="o_proj"), [(f"{E0}/model", "both")]),
    ("a file's weights grown with the ranks", factorised(scaling="weak", weights="none.safetensors", tensor="w"),
     [(f"{E0}/scaling", "strong"), (f"{E0}/weights", "none.safetensors")]),
    ("more memory than a rank has for factorising", factorised(in_features=2**22, out_features=2**20), [(E0, "GiB a rank")]),
    ("name that leaves the folder", top(name="../x"), [("/name", "letters")]),
    ("everything at once",
     json.dumps({"name": "a b", "seed": -1, "measure": {"cache": "warm"},
                 "experiments": [{"workload": "layer", "in_features": 256, "out_features": 128, "tokens": 0, "typo": 1,
                                  "scheme": [{"type": "int4", "group": 48}, {"type": "lowrank", "rank": 1000}]},
                                 {"workload": "mlpp"}]}),
     [("/name", ""), ("/seed", ""), ("/measure/cache", "cold"), (f"{E0}/tokens", ""), (f"{E0}/typo", ""),
      (f"{E0}/scheme/0/group", ""), (f"{E0}/scheme/1/rank", ""), ("/experiments/1/workload", "mlp")]),
]


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin=0, end=32, shape=(2, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


DATA = bytes(32)
MALFORMED = [
    ("empty", b""),
    ("no whole header length", b"\0\0\0"),
    ("header past the file", struct.pack("<Q", 1000) + b"{}"),
    ("header over 100 MB", struct.pack("<Q", 2**62) + b"{}"),
    ("header that is no JSON", safetensors(b"{w}", DATA)),
    ("unknown dtype", safetensors({"w": tensor(dtype="F17")}, DATA)),
    ("end before begin", safetensors({"w": tensor(begin=32, end=0)}, DATA)),
    ("size that does not match", safetensors({"w": tensor(shape=(2, 5))}, DATA)),
    ("shape that overflows", safetensors({"w": tensor(shape=(2**62, 2**62))}, DATA)),
    ("overlap", safetensors({"w": tensor(), "v": tensor()}, DATA)),
    ("hole", safetensors({"w": tensor(begin=8, end=40)}, bytes(40))),
    ("trailing bytes", safetensors({"w": tensor()}, DATA + b"x")),
    ("truncated data", safetensors({"w": tensor()}, DATA[:-1])),
    ("duplicate name", safetensors(b'{"w": %s, "w": %s}' % ((json.dumps(tensor()).encode(),) * 2), DATA)),
    ("tensor of another name", safetensors({"v": tensor()}, DATA)),
    ("another shape than the layer's", safetensors({"w": tensor()}, DATA)),
]


class BadInput(Case):
    def check(self, path, expected, ranks=None, arguments=("-o", "out")):
        """The config is refused with every expected error, and nothing but what was there is left."""
        before = sorted(str(p) for p in self.folder.rglob("*"))
        result = lamina("run", path, *arguments, ranks=ranks, cwd=self.folder, timeout=60)
        self.assertEqual(result.returncode, 64, result.stderr)
        self.assertEqual(result.stdout, "")
        lines = [line for line in result.stderr.splitlines() if line.startswith(f"{path}: ")]
        for pointer, message in expected:
            prefix = f"{path}: " + (f"{pointer}: " if pointer else "")
            matching = [line for line in lines if line.startswith(prefix) and message in line]
            self.assertEqual(len(matching), 1, f"{prefix}…{message}\nin\n{result.stderr}")
        self.assertEqual(before, sorted(str(p) for p in self.folder.rglob("*")), "left something behind")
        self.assertNotIn("\x1b", result.stderr)
        return lines

    def test_every_bad_config(self):
        for what, text, expected in TABLE:
            with self.subTest(what):
                path = self.write("bad.json", text)
                self.check(path, expected)

    def test_the_same_on_three_ranks(self):
        self.needs_mpi()
        for what, text, expected in TABLE:
            # One of each kind of reader: every start of three ranks costs a second.
            if what not in ("trailing comma", "more than 100000 cases", "unknown model", "missing weights",
                            "more memory than a rank has", "everything at once"):
                continue
            with self.subTest(what):
                self.check(self.write("bad.json", text), expected, ranks=3)

    def test_everything_is_said_once(self):
        what, text, expected = TABLE[-1]
        lines = self.check(self.write("bad.json", text), expected)
        self.assertEqual(len(lines), len(expected), lines)

    def test_no_folder_is_made_without_o_either(self):
        self.check(self.write("bad.json", TABLE[0][1]), TABLE[0][2], arguments=())

    def test_every_malformed_safetensors(self):
        for what, content in MALFORMED:
            with self.subTest(what):
                weights = self.write("w.safetensors", content)
                config = self.write("bad.json", tiny(weights=str(weights), tensor="w", in_features=256))
                self.check(config, [(f"{E0}/weights", "w.safetensors")])

    def test_weights_that_are_no_file(self):
        (self.folder / "w.safetensors").mkdir()
        for weights in (self.folder / "w.safetensors", "/dev/null", "/dev/zero"):
            with self.subTest(weights=weights):
                config = self.write("bad.json", tiny(weights=str(weights), tensor="w"))
                self.check(config, [(f"{E0}/weights", str(weights))])

    def test_the_description_is_told_beside_files_that_are_not_there(self):
        said = "w.safetensors is made by make_w.py"
        for changes, told in (({"weights": "w.safetensors", "tensor": "w"}, True), ({"inputs": "w.safetensors"}, True),
                              ({"scheme": {"type": "int5"}}, False)):
            with self.subTest(changes=changes):
                lines = self.check(self.write("bad.json", {**tiny(**changes), "description": said}), [])
                self.assertEqual([line for line in lines if line.endswith(f": /description: {said}")], lines[1:])
                self.assertEqual(len(lines), 2 if told else 1)

    def test_a_config_that_cannot_be_read(self):
        for path in (self.folder / "none.json", self.folder, "/dev/zero"):
            for ranks in (None, 3) if path != "/dev/zero" else (None,):
                if ranks:
                    self.needs_mpi()
                with self.subTest(path=path, ranks=ranks):
                    result = lamina("run", path, ranks=ranks, cwd=self.folder)
                    self.assertEqual(result.returncode, 64)
                    self.assertIn(str(path), result.stderr)
                    self.assertEqual(list(self.folder.iterdir()), [])

    def test_bad_overrides(self):
        path = self.write("good.json", tiny())
        for override in ("tokens", "tokens=[1", "experiments.7.tokens=1", "tokens=0", "tokns=1"):
            with self.subTest(override):
                self.check(path, [(None, "")] if "tok" not in override else [], arguments=["--set", override])

    def test_a_filter_that_finds_nothing(self):
        self.check(self.write("good.json", tiny()), [(None, "nowhere")], arguments=["--filter", "nowhere"])


if __name__ == "__main__":
    main()
