"""Who is alive is asked of the kernel, not of a file."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from shipway.local.leases import Leases

OTHER = """
import sys, time
from pathlib import Path
from shipway.local.leases import Leases
print(Leases(Path(sys.argv[1])).instance, flush=True)
time.sleep(60)
"""


def test_an_instance_lives_until_it_is_closed(tmp_path: Path) -> None:
    one, two = Leases(tmp_path), Leases(tmp_path)
    assert one.is_alive(one.instance)
    assert one.is_alive(two.instance)
    assert one.others() == ([two.instance], [])
    two.close()
    assert not one.is_alive(two.instance)
    assert one.others() == ([], [])
    one.close()


def test_an_instance_dies_with_its_process(tmp_path: Path) -> None:
    mine = Leases(tmp_path)
    args = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        other = process.stdout.readline().strip()
        assert mine.is_alive(other)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not mine.is_alive(other)
    assert mine.others() == ([], [other])
    mine.bury(other)
    assert mine.others() == ([], [])
    mine.close()


def test_a_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with leases.locked("x"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert [path.name for path in tmp_path.iterdir()] == [leases.instance]
    leases.close()
