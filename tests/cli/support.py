"""What the command-line tests share: running the program, tiny configs, and golden output with the numbers blanked."""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("LAMINA_ROOT", pathlib.Path(__file__).resolve().parents[2]))
LAMINA = os.environ.get("LAMINA", str(ROOT / "build" / "lamina"))
MPIEXEC = os.environ.get("MPIEXEC", shutil.which("mpirun") or "")
GOLDEN = ROOT / "tests" / "golden"

# Root, and more ranks than cores, are normal in a container; Open MPI refuses both unless allowed.
ALLOW = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    # Most of a start is looking for networks, and starting a daemon that a process without mpirun has no use for.
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_ess_singleton_isolated": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}

SCHEMES = [
    {"type": "dense"},
    {"type": "int8"},
    {"type": "int4", "group": 64},
    {"type": "pruned", "pattern": "2:4"},
    {"type": "lowrank", "rank": 16},
]


def tiny(**changes):
    """A config of one small layer that runs in a moment; `changes` go into its experiment."""
    experiment = {
        "workload": "layer", "in_features": 256, "out_features": 128, "tokens": 1, "threads": 1,
        "scheme": {"type": "int8"},
    }
    experiment.update(changes)
    return {
        "name": "tiny",
        "measure": {"precision": 0.5, "min_samples": 18, "max_seconds": 0.02},
        "experiments": [{key: value for key, value in experiment.items() if value is not None}],
    }


def svd(**changes):
    """A config of one small factorisation; `changes` go into its experiment."""
    return tiny(**{"workload": "svd", "tokens": None, "scheme": None, "in_features": 384, "out_features": 256, "rank": 16,
                   **changes})


def command(*arguments, ranks=None):
    launcher = [] if ranks is None else [MPIEXEC, "-n", str(ranks)]
    return launcher + [LAMINA] + [str(argument) for argument in arguments]


def environment():
    # Small caches: tiny layers pass them in few copies, on any machine.
    return {**os.environ, **ALLOW, "LAMINA_CACHE_BYTES": str(2 << 20)}


def lamina(*arguments, ranks=None, timeout=120, cwd=None):
    """Runs the program, under mpirun where `ranks` is given. A hang fails the test after `timeout` seconds."""
    process = subprocess.Popen(command(*arguments, ranks=ranks), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=environment(), cwd=cwd)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # mpirun passes SIGTERM on to its ranks; SIGKILL would leave them running.
        process.terminate()
        try:
            out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        raise AssertionError(f"{process.args} took over {timeout} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def record_keys(section):
    """The keys that docs/record.md explains under a heading; docs_test.py holds the page to the program's own list."""
    text = (ROOT / "docs" / "record.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \|", text.split(f"\n## {section}\n")[1].split("\n## ")[0], re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`(\w+)`", row)]


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lamina-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def write(self, name, content):
        path = self.folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def needs_mpi(self):
        if not MPIEXEC:
            self.skipTest("no mpirun: built without MPI")

    def run_ok(self, *arguments, **options):
        result = lamina(*arguments, **options)
        self.assertEqual(result.returncode, 0, f"{result.args}\n{result.stdout}\n{result.stderr}")
        return result

    def records(self, run):
        return [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]

    def assert_golden(self, name, text):
        """Compares with tests/golden/NAME; LAMINA_UPDATE_GOLDEN=1 writes it instead."""
        path = GOLDEN / name
        if os.environ.get("LAMINA_UPDATE_GOLDEN"):
            path.write_text(text)
        self.assertEqual(path.read_text() if path.exists() else "", text,
                         f"{path} differs; LAMINA_UPDATE_GOLDEN=1 rewrites it where the new output is right")


# A number that stands alone: not the 4 of int4, the 128 of g128 or the sizes of K×N 256×128 and 2×1.
_NUMBER = re.compile(r"(?<![\w.×:\-])\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w:\-]|×\d| token)")


def blank(line):
    return _NUMBER.sub("#", line)


@functools.cache
def gpus():
    """How many GPUs this machine and this build have."""
    listed = subprocess.run([LAMINA, "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return sum(line.startswith("  cuda ") and "compute capability" in line for line in listed.splitlines())


def blank_table(text):
    """A table without what differs from run to run and machine to machine: numbers, padding, intervals, limits, notes."""
    out, dropped = [], set()
    for line in text.splitlines():
        if line.startswith("Notes:"):
            break
        if not line.startswith("|"):
            out.append(blank(re.sub(r"machine [^,.]*", "machine HOST", line)))
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        is_header = "scheme" in cells or "method" in cells
        if is_header:
            # What communication adds is left out where timing noise hid it.
            dropped = {i for i, cell in enumerate(cells) if cell in ("notes", "exposed µs")}
        cells = [cell for i, cell in enumerate(cells) if i not in dropped]
        if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            cells = [re.sub("-+", "-", cell) for cell in cells]
        elif not is_header:
            cells = [re.sub(r"^# % \w+$", "# % LIMIT", re.sub(r" \[#, #\]", "", blank(cell).replace("never", "#")))
                     for cell in cells]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out).rstrip() + "\n"


def main():
    unittest.main(verbosity=1)
