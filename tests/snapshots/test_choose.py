"""Which driver is used, and what it says about that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.snapshots import leftovers
from support.unprivileged import run_as_nobody

from shipway.errors import Invalid
from shipway.snapshots.choose import open_driver

TESTS = Path(__file__).parent


@pytest.mark.root
def test_auto_is_overlay_where_that_can_be_mounted(root: Path) -> None:
    driver = open_driver("auto", root)
    assert driver.name == "overlay"
    assert driver.can_mount
    assert driver.reason == "overlay: mounting is allowed here"
    driver.close()
    assert leftovers(root) == []


def test_native_works_everywhere(root: Path) -> None:
    driver = open_driver("native", root)
    assert driver.name == "native"
    assert driver.reason.startswith("native: works anywhere; ")
    driver.close()


def test_another_name_is_invalid(root: Path) -> None:
    with pytest.raises(Invalid, match="zfs"):
        open_driver("zfs", root)


@pytest.mark.root
def test_auto_is_native_on_a_file_system_that_overlayfs_refuses(tmp_path: Path) -> None:
    # An overlay is no upper directory for another one.
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", tmp_path / "merged"], check=True)
    try:
        driver = open_driver("auto", tmp_path / "merged" / "root")
        assert driver.name == "native"
        assert driver.reason.startswith("native: overlay")
        driver.close()
    finally:
        subprocess.run(["umount", tmp_path / "merged"], check=True)


AS_NOBODY = """
import sys
from pathlib import Path
from shipway.errors import Unavailable
from shipway.snapshots.choose import open_driver
driver = open_driver("auto", Path("store"))
print(driver.name, driver.can_mount, driver.reason, sep="|")
try:
    open_driver("overlay", Path("store"))
except Unavailable as error:
    print(error)
"""


@pytest.mark.root
def test_auto_is_native_without_privileges_and_says_why(tmp_path: Path) -> None:
    name, can_mount, reason = run_as_nobody(["-c", AS_NOBODY], tmp_path).splitlines()[0].split("|")
    assert (name, can_mount) == ("native", "False")
    assert "not permitted" in reason


@pytest.mark.root
@pytest.mark.slow
def test_the_native_driver_conforms_without_privileges(tmp_path: Path) -> None:
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/tests"]
    said = run_as_nobody([*arguments, "-k", "native", str(TESTS / "test_conformance.py")], tmp_path)
    assert "passed" in said
    assert "failed" not in said


IN_A_NAMESPACE = """
from pathlib import Path
from shipway.snapshots.choose import open_driver
from shipway.trees.entry import Entry
driver = open_driver("auto", Path("store"))
with driver.writer(["base"]) as sink:
    sink.add(Entry(path="d/a", kind="reg", mode=0o644))
    sink.add(Entry(path="d/b", kind="reg", mode=0o644))
    sink.finish()
driver.prepare(["base", "next"])
with driver.mounted(["base", "next"], readonly=False) as path:
    (path / "d/a").unlink(); (path / "d/b").unlink(); (path / "d").rmdir(); (path / "d").mkdir(); (path / "d/c").touch()
driver.commit("next")
with driver.writer(["base", "next", "last"]) as sink:
    sink.add(Entry(path="d", kind="opaque"))
    sink.add(Entry(path="d/e", kind="reg", mode=0o644))
    sink.finish()
print(driver.name)
for chain in (["base", "next"], ["base", "next", "last"]):
    with driver.mounted(chain, readonly=True) as path:
        print(sorted(one.name for one in (path / "d").iterdir()))
    print([(one.path, one.kind) for one in driver.changes(chain)])
driver.close()
"""


@pytest.mark.root
def test_a_user_namespace_is_enough_for_overlay(tmp_path: Path) -> None:
    wrapped = (
        "import subprocess, sys; sys.exit(subprocess.run("
        f"['unshare', '--user', '--map-root-user', '--mount', sys.executable, '-c', {IN_A_NAMESPACE!r}]).returncode)"
    )
    if subprocess.run(["unshare", "--user", "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    name, next_names, _, last_names, last_changes = run_as_nobody(["-c", wrapped], tmp_path).splitlines()
    assert name == "overlay"
    assert next_names == "['c']"
    assert last_names == "['e']"
    assert last_changes == "[('', 'dir'), ('d', 'dir'), ('d/c', 'whiteout'), ('d/e', 'reg')]"
