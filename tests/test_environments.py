"""Environments that several processes want at once, and disks that cannot have what is compiled."""

import os
import subprocess
import sys
import textwrap

INSTALL = """
from edgekit.environments import Environment
environment = Environment("small", "3.11", ("pip",))
environment.install()
print(environment.executable.stat().st_ino)
"""


def test_two_processes_that_install_the_same_environment_get_one(tmp_path):
    environment = {**os.environ, "EDGEKIT_HOME": str(tmp_path), "PYTHONSAFEPATH": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", INSTALL], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert ends[0][0] == ends[1][0]
    assert (tmp_path / "environments/small/installed").exists()


def test_a_disk_that_cannot_keep_compiled_code_ends_nothing(tmp_path):
    (tmp_path / "doubling.py").write_text(
        textwrap.dedent(
            """
            import resource
            from numba import njit
            from edgekit.compiled import kept
            @kept
            @njit
            def double(x):
                return 2 * x
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            print(double(21), double._cache.cache_path)
            """
        )
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    done = subprocess.run(
        [sys.executable, "doubling.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("42 "), done.stderr
    assert str(tmp_path / "numba") in done.stdout
    assert [file for file in (tmp_path / "numba").rglob("*") if file.is_file() and file.stat().st_size > 100] == []
