"""The checks of the source tree: each passes on a small sound tree and fails on every planted breach."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("LAMINA_ROOT", Path(__file__).resolve().parents[2]))
SCRIPTS = ROOT / "scripts"

SOUND = {
    "kernels/layer.hpp": "#pragma once\n#include <cstdint>\nstruct Layer {\n  int64_t size = 0;\n};\n",
    "kernels/json.hpp": "#pragma once\n#include <nlohmann/json.hpp>\n",
    "kernels/weights/model.cpp": '#include "kernels/json.hpp"\n',
    "distributed/mpi/world.cpp": '#include <mpi.h>\n\n#include "kernels/layer.hpp"\n',
    "bench/main.cpp": '#include "distributed/sum.hpp"\n#include "kernels/json.hpp"\nint main() {}\n',
    "distributed/sum.hpp": '#pragma once\n#include "kernels/layer.hpp"\n',
    "tests/kernels/layer_test.cpp": '#include "kernels/layer.hpp"\n',
}

# What is planted (path, text), and the part of the rule that must be named.
BREACHES = [
    ("kernels/a.cpp", '#include "distributed/sum.hpp"\n', "kernels/ must include nothing"),
    ("kernels/cpu/a.cpp", '#  include "bench/record.hpp"\n', "kernels/ must include nothing"),
    ("kernels/a.hpp", "#include <distributed/sum.hpp>\n", "kernels/ must include nothing"),
    ("distributed/a.hpp", "#include <bench/record.hpp>\n", "distributed/ must include nothing"),
    ("bench/a.cpp", '#include "tests/kernels/help.hpp"\n', "nothing of tests/"),
    ("bench/a.cpp", '#include "record.hpp"\n', "relative to the root"),
    ("bench/a.cpp", "#include <mpi.h>\n", "mpi.h belongs"),
    ("bench/bare/a.cpp", "#include <mpi.h>\n", "mpi.h belongs"),
    ("bench/bare/a.cpp", "#include <nccl.h>\n", "nccl.h belongs"),
    ("bench/bare/a.cpp", "#include <cuda_runtime.h>\n", "CUDA headers belong"),
    ("distributed/mpi/a.cpp", '#include "distributed/mpi/bare/bare.hpp"\n', "nothing but lamina_bare"),
    ("distributed/mpi/bare/a.cpp", '#include "kernels/layer.hpp"\n', "lamina_bare must include nothing else"),
    ("distributed/nccl/bare.cpp", '#include "distributed/sum.hpp"\n', "lamina_bare must include nothing else"),
    ("distributed/mpi.cpp", "#include <mpi.h>\n", "mpi.h belongs"),
    ("tests/kernels/a_test.cpp", "#include <mpi.h>\n", "mpi.h belongs"),
    ("kernels/cuda/a.cu", "#include <nccl.h>\n", "nccl.h belongs"),
    ("kernels/a.cpp", "#include <cuda_runtime.h>\n", "CUDA headers belong"),
    ("bench/a.cpp", "#include <cublasLt.h>\n", "CUDA headers belong"),
    ("distributed/a.cpp", "#include <nlohmann/json.hpp>\n", "JSON is read"),
    ("kernels/cpu/a.cpp", '#include "kernels/json.hpp"\n', "JSON is read"),
    ("kernels/a.cpp", "#include <oneapi/dnnl/dnnl.hpp>\n", "oneDNN"),
    ("kernels/a.cpp", "#ifdef LAMINA_CUDA\n#endif\n", "absent/"),
    ("bench/a.hpp", "#if defined(HAVE_MPI)\n#endif\n", "absent/"),
    ("kernels/long.cpp", "\n" * 451, "450 lines"),
    ("scripts/long.sh", "\n" * 451, "450 lines"),
]


class Checks(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="lamina-checks-"))
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.copy(ROOT / ".clang-format", self.folder)
        for path, text in SOUND.items():
            self.write(path, text)

    def write(self, path, text):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def check(self, name, **environment):
        return subprocess.run(
            [SCRIPTS / name, self.folder], text=True, timeout=60, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})

    def test_layering_passes_a_sound_tree(self):
        result = self.check("check_layering.sh")
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_layering_catches_every_breach(self):
        for path, text, rule in BREACHES:
            with self.subTest(path=path, text=text[:40]):
                self.write(path, text)
                result = self.check("check_layering.sh")
                (self.folder / path).unlink()
                self.assertEqual(result.returncode, 1, result.stdout)
                self.assertIn(rule, result.stdout)
                self.assertIn(path, result.stdout)
                self.assertIn("1 rules broken", result.stdout)

    def test_layering_refuses_a_folder_that_is_no_tree(self):
        shutil.rmtree(self.folder / "kernels")
        self.assertEqual(self.check("check_layering.sh").returncode, 1)

    @unittest.skipUnless(shutil.which("clang-format-14"), "clang-format-14 is not installed")
    def test_style(self):
        result = self.check("check_style.sh")
        self.assertEqual(result.returncode, 0, result.stdout)
        self.write("kernels/cuda/a.cu", "int   a ;\n")
        result = self.check("check_style.sh")
        self.assertEqual(result.returncode, 1)
        self.assertIn("kernels/cuda/a.cu", result.stdout)

    def test_style_names_an_absent_formatter(self):
        result = self.check("check_style.sh", CLANG_FORMAT="no-such-formatter")
        self.assertEqual(result.returncode, 69)
        self.assertIn("no-such-formatter", result.stdout)

    def test_headers(self):
        result = self.check("check_headers.sh")
        self.assertEqual(result.returncode, 0, result.stdout)
        for text in ["#pragma once\nstd::string name();\n", "#include <string>\nstruct Twice {};\n"]:
            with self.subTest(text=text):
                self.write("kernels/broken.hpp", text)
                result = self.check("check_headers.sh")
                self.assertEqual(result.returncode, 1)
                self.assertIn("kernels/broken.hpp does not compile", result.stdout)

    def test_headers_that_the_build_shows_are_not_compiled_again(self):
        broken, include = "#pragma once\nstd::string name();\n", '#include "kernels/broken.hpp"\n'
        self.write("kernels/broken.hpp", broken)
        self.write("kernels/broken.cpp", "// Why.\n" + include + "#include <string>\n")
        result = self.check("check_headers.sh")
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("of 1 more the build shows it", result.stdout)
        # Not first, not guarded, or not in every build.
        for header, source in ((broken, "#include <string>\n" + include), (broken, "#define A\n" + include),
                               (broken.removeprefix("#pragma once\n"), include)):
            self.write("kernels/broken.hpp", header)
            self.write("kernels/broken.cpp", source)
            self.assertEqual(self.check("check_headers.sh").returncode, 1, source)
        (self.folder / "kernels" / "broken.hpp").unlink()
        self.write("distributed/nccl/broken.hpp", broken)
        self.write("distributed/nccl/broken.cpp", include.replace("kernels", "distributed/nccl"))
        self.assertEqual(self.check("check_headers.sh").returncode, 1)


class Installing(unittest.TestCase):
    """What the scripts do on a machine that lacks packages, with stand-ins for its commands."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="lamina-install-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.log = self.folder / "log"
        self.log.write_text("")
        self.stand_in("id", "echo 1000")
        self.stand_in("dpkg-query", '[ "${@: -1}" = cmake ] || printf installed')
        self.stand_in("apt-get", f'echo "$@" >> {self.log}')
        self.stand_in("sudo", "exit 1")
        self.stand_in("cmake", "exit 1")

    def stand_in(self, name, body):
        file = self.folder / name
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)

    def quickstart(self, **environment):
        path = f"{self.folder}:{os.environ['PATH']}"
        result = subprocess.run(
            [SCRIPTS / "quickstart.sh"], text=True, timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, "PATH": path, "LAMINA_PRESET": "cpu", **environment})
        return result, self.log.read_text()

    def test_without_root_or_sudo_it_names_the_packages_and_the_command(self):
        result, calls = self.quickstart()
        self.assertEqual(result.returncode, 69, result.stdout)
        self.assertIn("apt-get install --no-install-recommends cmake\n", result.stdout)
        self.assertEqual(calls, "")

    def test_with_sudo_it_installs_what_is_missing_and_no_more(self):
        self.stand_in("sudo", 'if [ "$1" = -n ]; then shift; fi; "$@"')
        result, calls = self.quickstart()
        self.assertEqual(calls, "update -q\ninstall -y -q --no-install-recommends cmake\n")
        self.assertEqual(result.returncode, 69)  # the stand-in for cmake fails

    def test_it_updates_no_lists_when_nothing_is_missing(self):
        self.stand_in("id", "echo 0")
        self.stand_in("dpkg-query", "printf installed")
        _, calls = self.quickstart()
        self.assertEqual(calls, "")

    def test_told_to_install_nothing_it_goes_straight_to_cmake(self):
        self.stand_in("id", "echo 0")
        result, calls = self.quickstart(LAMINA_NO_INSTALL="1")
        self.assertEqual(calls, "")
        self.assertEqual(result.returncode, 69)
        self.assertIn("docs/building.md", result.stdout)

    def test_a_failing_apt_ends_it(self):
        self.stand_in("id", "echo 0")
        self.stand_in("apt-get", "exit 100")
        result, _ = self.quickstart()
        self.assertEqual(result.returncode, 69)
        self.assertIn("needed: cmake", result.stdout)


if __name__ == "__main__":
    unittest.main()
