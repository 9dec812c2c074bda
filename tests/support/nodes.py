"""Several Ray nodes on one machine, started as on several: `ray start --head`, then `ray start --address`."""

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

START_SECONDS = 120


@contextmanager
def cluster(folder: Path, pythons: Sequence[str | Path], env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """One node for each Python, the first is the head; each has one logical GPU. Yields the variables by which a run
    joins them.

    Not ray.cluster_utils.Cluster, which writes its address where every other run on this machine would find and join
    it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temp = tempfile.mkdtemp(prefix="nodes")  # short: the path of a socket in it may have 107 characters
    port = _free_port()
    # Recent versions of Ray ask for a token, which the machines of a cluster must share.
    join = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = ["--head", f"--port={port}", f"--temp-dir={temp}", "--include-dashboard=false"]
    started: list[psutil.Process] = []
    try:
        for number, python in enumerate(pythons):
            log = folder / f"node_{number}"
            role = (
                [f"--address={join['RAY_ADDRESS']}"] if number else [*head, f"--ray-client-server-port={_free_port()}"]
            )
            with log.open("w") as output:
                started.append(
                    psutil.Popen(
                        [python, "-m", "ray.scripts.scripts", "start", *role, "--block", "--disable-usage-stats",
                         "--num-cpus=16", "--num-gpus=1", f"--dashboard-agent-listen-port={_free_port()}",
                         f"--object-store-memory={500 * 2**20}"],
                        cwd=folder, env={**env, **join}, stdout=output, stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )  # fmt: skip
            _wait_until_started(started[-1], log)
        yield join
    finally:
        for process in reversed(started):
            _end(process)
        shutil.rmtree(temp, ignore_errors=True)


def python_without_us(folder: Path) -> Path:
    """The Python of a new environment that has every package of this one but the recipe."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    # Python does not read the .pth files of folders that a .pth file names, so that an editable install of us stays
    # out.
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    python = folder / "bin" / "python"
    code = "import importlib.util as u, ray, verl; assert not u.find_spec('recipe') or not u.find_spec('recipe.egrsd')"
    subprocess.run([python, "-c", code], check=True, cwd=folder)
    return python


def _wait_until_started(process: psutil.Process, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started." not in log.read_text():
        assert process.is_running() and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _end(process: psutil.Process) -> None:
    if not process.is_running():
        return
    children = process.children(recursive=True)
    process.terminate()  # Ray then ends its children itself
    _, left = psutil.wait_procs([process, *children], timeout=20)
    for survivor in left:
        survivor.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]
