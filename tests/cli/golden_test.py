"""What the program prints, held against tests/golden with the numbers blanked."""

import re
import subprocess

from support import ROOT, SCHEMES, Case, blank, blank_table, command, environment, lamina, main, tiny


class Golden(Case):
    def test_help(self):
        for name in ("", "run", "compress", "export", "list", "compare", "ab", "selftest", "history", "history add", "history show"):
            with self.subTest(command=name):
                result = self.run_ok(*name.split(), "--help")
                self.assert_golden("-".join(["help", *name.split()]) + ".txt", result.stdout)
                self.assertEqual(result.stderr, "")

    def test_help_is_printed_once_by_all_ranks_together(self):
        self.needs_mpi()
        alone = self.run_ok("--help").stdout
        self.assertEqual(self.run_ok("--help", ranks=3).stdout, alone)

    def test_what_only_reads_starts_no_mpi(self):
        # Open MPI ends a process that asks for a way of sending that is not there: as a login node may.
        broken = {**environment(), "OMPI_MCA_pml": "none-such"}
        data = ROOT / "tests" / "data" / "compare"
        for arguments in (("--help",), ("compare", data / "base", data / "new"),
                          ("export", data / "base" / "launch-1", "--format", "csv")):
            result = subprocess.run(command(*arguments), capture_output=True, text=True, env=broken, timeout=60)
            self.assertEqual((result.returncode, result.stderr), (0, ""), arguments)

    def test_version(self):
        self.assertRegex(self.run_ok("--version").stdout, r"^lamina \d+\.\d+\.\d+")

    def test_list(self):
        out, section = [], ""
        for line in self.run_ok("list").stdout.splitlines():
            section = line if line and not line.startswith(" ") else section
            if section.startswith(("Kernels", "Methods", "Devices", "Communicators", "Libraries")) and line.startswith(" "):
                # Which of these are present, and as what version, is the machine's.
                line = "  " + line.split()[0]
            out.append(re.sub(r"^This launch: .*", "This launch: …", line))
        # A machine may have several units of a device.
        unique = [line for i, line in enumerate(out) if not line.startswith("  ") or line not in out[:i]]
        self.assert_golden("list.txt", "\n".join(unique) + "\n")

    def test_dry_run(self):
        config = self.write("tiny.json", tiny(scheme=SCHEMES, tokens=[1, 3]))
        result = self.run_ok("run", config, "--dry-run", cwd=self.folder)
        self.assert_golden("dry-run.txt", "\n".join(re.sub(" +", " ", blank(line)) for line in
                                                    result.stdout.splitlines()) + "\n")
        self.assertEqual([path.name for path in self.folder.iterdir()], ["tiny.json"])

    def test_table_alone(self):
        config = self.write("tiny.json", tiny(scheme=SCHEMES, tokens=[1, 3]))
        result = self.run_ok("run", config, "-o", self.folder / "out")
        self.assert_golden("table-1-rank.txt", blank_table(result.stdout))
        self.assertEqual((self.folder / "out" / "table.md").read_text().strip(), result.stdout.strip())

    def test_table_on_three_ranks(self):
        self.needs_mpi()
        # Three ranks on a small machine take turns on its cores: few samples, few schemes, much patience.
        config = tiny(scheme=[SCHEMES[0], SCHEMES[1], SCHEMES[-1]], shard=["none", "column", "row"], tokens=3)
        config["measure"]["min_samples"] = 2
        result = self.run_ok("run", self.write("tiny.json", config), "-o", self.folder / "out", ranks=3, timeout=300)
        self.assert_golden("table-3-ranks.txt", blank_table(result.stdout))


class Usage(Case):
    def test_bad_usage_exits_64_with_the_nearest_command(self):
        for ranks in (None, 3):
            if ranks:
                self.needs_mpi()
            with self.subTest(ranks=ranks):
                result = lamina("rnu", "x.json", ranks=ranks)
                self.assertEqual(result.returncode, 64)
                self.assertEqual(result.stdout, "")
                self.assertEqual(result.stderr.count("did you mean `run`?"), 1)

    def test_a_closed_stdout_is_a_failure(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run(command("list"), stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
        self.assertEqual(result.returncode, 1)
        self.assertIn("cannot write to stdout", result.stderr)


if __name__ == "__main__":
    main()
