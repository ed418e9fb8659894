"""What a gate is tested with: a build that is really slower, the script that measures both builds, and launches by srun."""

import json
import os
import pathlib
import shutil
import subprocess
import unittest

from support import LAMINA, MPIEXEC, ROOT, Case, environment, lamina, main, tiny

# The program with LAMINA_INJECT_SLOWDOWN=5.
SLOW = os.environ.get("LAMINA_SLOW", str(ROOT / "build" / "tests" / "slow_program"))
WARNING = "built with LAMINA_INJECT_SLOWDOWN=5: native kernels are made slower, to test a gate"


class SlowBuild(Case):
    def configure(self, percent):
        """What CMake reads of the option, without the project around it."""
        return subprocess.run(["cmake", f"-DLAMINA_INJECT_SLOWDOWN={percent}", "-P", ROOT / "cmake" / "slowdown.cmake"],
                              capture_output=True, text=True, timeout=60)

    def test_takes_percents_alone(self):
        for percent in ("0", "5", "2.5", "100"):
            self.assertEqual(self.configure(percent).returncode, 0, percent)
        for percent in ("-5", "101", "five", "5%", "1e3", "5;6", ""):
            result = self.configure(percent)
            self.assertNotEqual(result.returncode, 0, percent)
            self.assertIn(f"LAMINA_INJECT_SLOWDOWN: expected 0 to 100 percent, found {percent}".strip(), result.stderr)

    def test_is_off_unless_asked_for_and_is_never_installed(self):
        def of(build):
            (line,) = [line for line in (build / "CMakeCache.txt").read_text().splitlines()
                       if line.startswith("LAMINA_INJECT_SLOWDOWN:")]
            return line.split("=")[1]

        self.assertEqual(of(pathlib.Path(LAMINA).parent), "0")
        self.assertNotIn("SLOWDOWN", self.run_ok("list").stdout)
        # A project of nothing but the option, as the real one reads it: what it installs comes after the refusal.
        (self.folder / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.22)
project(slow LANGUAGES NONE)
include({ROOT}/cmake/slowdown.cmake)
install(FILES CMakeLists.txt DESTINATION .)
""")
        for arguments, percent in (((), "0"), (("-DLAMINA_INJECT_SLOWDOWN=5",), "5")):
            build, prefix = self.folder / f"build-{percent}", self.folder / f"prefix-{percent}"
            result = subprocess.run(["cmake", "-S", self.folder, "-B", build, *arguments], capture_output=True, text=True,
                                    timeout=120)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual("made slower" in result.stderr, percent != "0", result.stderr)
            self.assertEqual(of(build), percent)
            result = subprocess.run(["cmake", "--install", build, "--prefix", prefix], capture_output=True, text=True,
                                    timeout=60)
            self.assertEqual(result.returncode == 0, percent == "0", result.stderr)
            self.assertEqual(prefix.exists(), percent == "0")
        self.assertIn("built with LAMINA_INJECT_SLOWDOWN=5: a build to test a gate with, not to install",
                      " ".join(result.stderr.split()))

    def test_says_so_wherever_it_is_looked_at(self):
        result = subprocess.run([SLOW, "list"], env=environment(), capture_output=True, text=True, timeout=60)
        self.assertEqual(result.stdout.splitlines()[0], f"This program was {WARNING}.")
        run = self.folder / "run"
        result = subprocess.run([SLOW, "run", self.write("tiny.json", tiny()), "-o", run], env=environment(),
                                capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        for row in self.records(run):
            self.assertIn(WARNING, row["warnings"])
            self.assertTrue(row["check_passed"])
        self.assertIn(WARNING, json.loads((run / "environment.json").read_text())["launches"][0]["warnings"])
        self.assertIn(WARNING, (run / "table.md").read_text())


class WithPrograms(Case):
    """Stand-ins on PATH that note how they were called."""

    def setUp(self):
        super().setUp()
        self.bin, self.log = self.folder / "bin", self.folder / "log"
        self.bin.mkdir()
        self.log.touch()

    def stand_in(self, name, script):
        (self.bin / name).write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"$LOG"\n{script}\n')
        (self.bin / name).chmod(0o755)

    def said(self):
        return self.log.read_text().splitlines()

    def run_there(self, *command):
        return subprocess.run(command, env={**environment(), "PATH": f"{self.bin}:{os.environ['PATH']}", "LOG": str(self.log),
                                            "LAMINA_NO_INSTALL": "1", "LAMINA_CMAKE_ARGS": ""},
                              cwd=self.folder, capture_output=True, text=True, timeout=120)


class MeasureGate(WithPrograms):
    """scripts/ci/measure_gate.sh with the builds made already."""

    def setUp(self):
        super().setUp()
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        # Configured without a slowdown or with one, it builds this program or a slower one.
        self.stand_in("cmake", f"""[ "${{FAIL_BUILD:-}}" != 1 ] || exit 1
if [ "$1" = --build ]; then
  mkdir -p "$2" && ln -sf "$(cat program)" "$2/lamina"
else
  case "$*" in *SLOWDOWN=0*) echo {LAMINA} ;; *) echo {SLOW} ;; esac >program
fi""")

    def measure(self, *arguments):
        return self.run_there(self.folder / "scripts" / "ci" / "measure_gate.sh", *arguments)

    def test_the_published_bank_is_of_the_config(self):
        """What docs/regression.md says of configs/gate.json was measured with its rows."""
        bank = (ROOT / "results" / "intel-amx-2-cores" / "gate-bank" / "times.csv").read_text().splitlines()
        planned = lamina("run", ROOT / "configs" / "gate.json", "--dry-run")
        self.assertEqual(planned.returncode, 0, planned.stderr)
        cases = {line.split(",")[3] for line in bank[1:]}
        self.assertEqual({word for word in planned.stdout.split() if word.startswith("layer/")}, cases)

    def test_measures_the_builds_and_goes_on(self):
        bank, config = self.folder / "bank", self.write("tiny.json", tiny())
        result = self.measure(bank, config, "3", "5", "10")
        self.assertEqual(result.returncode, 12, result.stderr)  # three pairs are too few to say
        self.assertIn("One build against itself, 3 interleaved pairs", result.stdout)
        self.assertIn("2. a build whose 2 native rows", result.stdout)
        self.assertEqual((bank / "selftest.md").read_text(), result.stdout)
        made = [line for line in self.said() if "--preset" in line]
        self.assertEqual([(line.split("-DLAMINA_INJECT_SLOWDOWN=")[1].split()[0], line.split(" -B ")[1].split()[0]) for line in made],
                         [(percent, str(self.folder / "build-measure-gate")) for percent in ("0", "5", "10")])
        for number in (1, 2, 3):
            for side in ("base", "new", "slow-1", "slow-2"):
                rows = self.records(bank / side / f"launch-{number}")
                self.assertEqual({WARNING in row["warnings"] for row in rows}, {side.startswith("slow")}, side)
        again = self.measure(bank, config, "3", "5", "10")
        self.assertEqual((again.returncode, again.stdout), (12, result.stdout))
        self.assertNotIn("is done", again.stderr)

    def test_trouble(self):
        for percent in ("0", "0.0", "five", "-5", "101"):
            result = self.measure(self.folder / "bank", self.write("tiny.json", tiny()), "3", percent)
            self.assertEqual(result.returncode, 64, percent)
            self.assertIn(f"PERCENT: expected more than 0 and at most 100, found {percent}", result.stderr)
        self.assertEqual(self.said(), [])
        self.stand_in("cmake", "exit 1")
        self.assertEqual(self.measure(self.folder / "bank").returncode, 69)


class Srun(WithPrograms):
    """`lamina ab --launcher "srun …"`: through a stand-in for srun, and through the real one where Slurm answers."""

    LAX = ("--launches", "2", "--limit", "1000", "--floor", "1000", "--set", "shard=column")

    def ab(self, launcher):
        return self.run_there(LAMINA, "ab", "--base", LAMINA, "--new", LAMINA, self.write("tiny.json", tiny()), *self.LAX,
                              "-o", self.folder / "ab", "--launcher", launcher)

    def ranks(self):
        return {json.loads((self.folder / "ab" / side / f"launch-{number}" / "environment.json").read_text())["launches"][0]["ranks"]
                for side in ("base", "new") for number in (1, 2)}

    # After its options, srun starts the rest: so many processes of one MPI, or processes that know nothing of each other.
    def srun(self, start):
        self.stand_in("srun", f"""while [ "${{1#-}}" != "$1" ]; do
  [ "$1" != -n ] || shift
  shift
done
export SLURM_STEP_NUM_TASKS=2
exec {start} "$@\"""")

    def test_each_launch_is_a_step_of_its_own(self):
        self.needs_mpi()
        self.srun(f"{MPIEXEC} -n 2")
        result = self.ab("srun --mpi=pmix -n 2 --cpu-bind=cores")
        self.assertIn(result.returncode, (0, 12), result.stderr)
        self.assertEqual(self.ranks(), {2})
        steps = self.said()
        self.assertEqual(len(steps), 4)
        for step in steps:
            self.assertRegex(step, rf"^srun --mpi=pmix -n 2 --cpu-bind=cores {LAMINA} run \S+/tiny.json "
                                   r"-o \S+/ab/(base|new)/launch-[12] --set shard=column$")
        self.assertEqual(len({step.split(" -o ")[1].split()[0] for step in steps}), 4)

    def test_an_srun_that_starts_no_mpi_is_told(self):
        self.needs_mpi()
        self.srun("env")
        result = self.ab("srun -n 2")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("expected 2 ranks (SLURM_STEP_NUM_TASKS=2)", result.stderr)
        self.assertIn("srun with --mpi=pmix", result.stderr)
        self.assertEqual(result.stdout, "")

    def test_a_launcher_that_is_not_there(self):
        result = self.ab("no-such-launcher -n 2")
        self.assertEqual(result.returncode, 1)
        self.assertIn("cannot start no-such-launcher: No such file or directory", result.stderr)

    def test_slurm(self):
        self.needs_mpi()
        if not shutil.which("srun"):
            self.skipTest("no srun: Slurm is not installed")
        types = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, timeout=60)
        if "pmix" not in types.stdout + types.stderr or subprocess.run(
                ["srun", "--mpi=pmix", "-n", "2", "--overcommit", "--immediate=5", "true"], capture_output=True,
                timeout=60).returncode != 0:
            self.skipTest("no srun --mpi=pmix that starts two tasks here")
        result = self.ab("srun --mpi=pmix -n 2 --overcommit")
        self.assertIn(result.returncode, (0, 12), result.stderr)
        self.assertEqual(self.ranks(), {2})


if __name__ == "__main__":
    main()
