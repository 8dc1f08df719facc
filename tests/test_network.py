"""No command goes to the network: with every way to it closed, a scan is segmented as ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from head_series import head

from hgisam.io.nifti import write_ct

CLOSED = '''
import os, socket, sys

def closed(event, arguments):
    """An audit hook sees calls from C too, and cannot be taken back."""
    if event.startswith("socket.") and event not in {"socket.gethostname", "socket.__new__"}:
        with open(os.environ["HGISAM_CALLS"], "a") as calls:
            calls.write(f"{event} {arguments}\\n")
        raise OSError(f"{event}: the network is closed")

sys.addaudithook(closed)

class NoSocket(socket.socket):
    def __init__(self, family=-1, *arguments, **options):
        # urllib3 asks at import whether ::1 can be bound, and pydicom imports it where it happens to be installed
        asked = sys._getframe(1).f_code.co_name == "_has_ipv6"
        if family != socket.AF_UNIX and asked:
            raise OSError("the network is closed")
        if family != socket.AF_UNIX:
            with open(os.environ["HGISAM_CALLS"], "a") as calls:
                calls.write(f"socket {family}\\n")
            raise OSError("the network is closed")
        super().__init__(family, *arguments, **options)

socket.socket = NoSocket
'''


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python whose site closes the network before anything else is imported."""
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(CLOSED)
    paths = [str(tmp_path / "site"), str(Path(__file__).resolve().parent.parent)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "HGISAM_CALLS": str(tmp_path / "calls"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('localhost', 9)",
        "import _socket; _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM).connect(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
    ],
)
def test_the_network_is_closed_indeed(tmp_path: Path, code: str) -> None:
    done = run(tmp_path, "-c", code)
    assert done.returncode == 1
    assert "the network is closed" in done.stderr
    assert (tmp_path / "calls").read_text() != ""


def test_a_scan_is_segmented_without_a_call_to_the_network(tmp_path: Path) -> None:
    write_ct(tmp_path / "head.nii.gz", head().ct)
    done = run(tmp_path, "-m", "hgisam", "segment", str(tmp_path / "head.nii.gz"), "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "head_mask.nii.gz").is_file()
    assert not (tmp_path / "calls").exists()
