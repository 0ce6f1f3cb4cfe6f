"""Damaged copies of valid files, and a process of its own that reads them."""

import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

from mutations import OPERATIONS, mutate
from readers import READERS

HERE = Path(__file__).parent
PATIENCE = 90  # s; the reader itself counts its CPU time, which a busy machine does not change


class Reader:
    """A process that reads; started anew after it died or hung."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def ask(self, name: str, path: Path) -> str:
        """Return what is wrong with how a reader took this, or nothing."""
        if self._process is None:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "readers.py")], env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        process = self._process
        process.stdin.write(json.dumps([name, str(path)]) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        answer = process.stdout.readline() if ready else ""
        if answer:
            return json.loads(answer)
        if ready:  # the pipe is closed: it is dead, or dying
            process.wait(PATIENCE)
        self.close()
        return f"died with {process.returncode}" if ready else "hangs"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def seeds_of(name: str, folder: Path) -> list[Path]:
    """Return the files of a reader that may be damaged."""
    return sorted(path for path in (folder / name).rglob("*") if path.is_file())


def damaged(name: str, seed: Path, folder: Path, steps: list, place: Path) -> Path:
    """Write a damaged copy of a file, of a folder with the rest of it, and return what to read."""
    shutil.rmtree(place, ignore_errors=True)
    content = mutate(seed.read_bytes(), steps)
    if not READERS[name][2]:
        place.mkdir()
        (place / f"damaged{seed.suffix}").write_bytes(content)
        return place / f"damaged{seed.suffix}"
    shutil.copytree(folder / name, place / "damaged")
    (place / "damaged" / seed.relative_to(folder / name)).write_bytes(content)
    return place / "damaged"


def drawn_steps(random) -> list[tuple[int, float, float, int]]:
    """Return one to four steps for ``mutate``."""
    kinds = random.choices(range(len(OPERATIONS)), k=random.randint(1, 4))
    return [(kind, random.random(), random.random(), random.getrandbits(64)) for kind in kinds]
