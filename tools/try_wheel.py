"""Build the wheel, install it into a new environment outside of the repository, animate a photo."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Prints the photo that comes with scikit-learn, and where the package was imported from.
WHERE = "import gidlite; from gidlite.media import sample_photo; print(sample_photo(), gidlite)"


def run(*command: object, cwd: Path, quiet: bool = False) -> str:
    """Run a command and return what it printed; its failure ends this script."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if not quiet or done.returncode:
        print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(str(part) for part in command)}")
    return done.stdout


def main() -> None:
    """Do it all in a temporary folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(
            sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT,
            cwd=folder, quiet=True,
        )  # fmt: skip
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        constraints = ROOT / "constraints.txt"
        torch = next(x for x in constraints.read_text().split("\n") if x.startswith("torch=="))
        install = (python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c")
        run(*install, constraints, torch, cwd=folder)
        run(*install, constraints, wheel, cwd=folder)
        photo, where = run(python, "-c", WHERE, cwd=folder, quiet=True).split(maxsplit=1)
        if str(ROOT) in where:
            sys.exit(f"the repository was imported, not the wheel: {where}")
        loop = folder / "loop.mp4"
        run(
            python, "-m", "gidlite", "animate", photo, "-o", loop, "--width", 256, "--seconds", 1,
            cwd=folder,
        )  # fmt: skip
        print(f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) makes a loop of "
              f"{loop.stat().st_size / 1e3:.0f} kB")  # fmt: skip


if __name__ == "__main__":
    main()
