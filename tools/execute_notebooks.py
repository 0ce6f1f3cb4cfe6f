"""Run notebooks in place, each in a fresh kernel, and store clean outputs.

    python tools/execute_notebooks.py                  # all of notebooks/
    python tools/execute_notebooks.py notebooks/02_*   # only these

A notebook is written only when it ran without an error, shows no path of this machine and fits
the size budget; otherwise its file is left as it was and the exit status is 1. Time and memory go
into the line **Cost** of its first cell. It is run once more in fast mode, and cells that then say
something else are tagged ``fast-differs``: all others are compared by ``tests/notebooks``, so that
what is stored cannot drift from what the code says.
"""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
MAX_BYTES = 700_000
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
TAG = "fast-differs"
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
ADDRESS = re.compile(r"0x[0-9a-f]+")
TIMING = re.compile(
    r"\d+(?:\.\d+)?(?: to \d+(?:\.\d+)?)? ?(?:s|ms|seconds|min|minutes|fps|steps/s)\b"
)
WIDGET = "application/vnd.jupyter.widget-view+json"
COST = re.compile(r"\*\*Cost\*\* [^\n]*?(?= · \*\*| *\n|$)")
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```", re.DOTALL)
MEMORY = "import resource as _r; print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss)"
KEPT_CELL_METADATA = {"tags", "jupyter", "slideshow"}
PRIVATE_PATH = re.compile(
    r"/(?:home|Users|root)/[\w.]|[A-Za-z]:\\{1,2}Users|/ipykernel_\d|"
    + "|".join(re.escape(str(path)) + r"\b" for path in {ROOT, Path.home()} if path.name)
)


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Remove everything that would differ on another machine or on another day.

    A widget that brings a page of its own is stored as that: it has no kernel there.
    """
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in KEPT_CELL_METADATA}
        )
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output.data.pop(WIDGET, None)


def texts(output: nbformat.NotebookNode) -> list[str]:
    """What an output says, pictures left out."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return [output.evalue, *output.traceback]
    data = output.get("data", {})
    return [
        str(value) for mime, value in data.items() if not mime.startswith(("image/p", "image/j"))
    ]


def private_paths(notebook: nbformat.NotebookNode) -> list[str]:
    """One line for each code cell whose outputs show a path of this machine."""
    found = []
    for index, cell in enumerate(notebook.cells):
        for text in (text for output in cell.get("outputs", []) for text in texts(output)):
            if match := PRIVATE_PATH.search(text):
                shown = text[match.start() : match.start() + 60].splitlines()[0]
                found.append(f"cell {index} shows a path of this machine: {shown}")
                break
    return found


def solutions(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the code of every hidden solution."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return [code for text in texts for code in SOLUTION.findall(text)]


def run(
    path: Path, *, fast: bool, more: Sequence[str] = (), timeout: float = 900
) -> nbformat.NotebookNode:
    """Return a notebook as executed in a fresh kernel, with ``more`` cells of code at its end."""
    os.environ["GIDLITE_FAST"] = "1" if fast else ""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in more]
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNELSPEC["name"],
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    client.execute()
    return notebook


def said(cell: nbformat.NotebookNode) -> str:
    """Return what a cell printed or returned as text; pictures, widgets and addresses left out."""
    found = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            found.append(output.text)
        elif WIDGET not in output.get("data", {}):
            data = output.get("data", {})
            found.append(data.get("text/markdown") or data.get("text/plain", ""))
    return TIMING.sub("<time>", ADDRESS.sub("<address>", "\n".join(found)))


def agree(stored: str, fresh: str) -> bool:
    """Return whether two texts say the same: equal words, numbers within 2 % or a last decimal."""
    words = [NUMBER.sub("#", text).split() for text in (stored, fresh)]
    numbers = [NUMBER.findall(text) for text in (stored, fresh)]
    if words[0] != words[1] or len(numbers[0]) != len(numbers[1]):
        return False
    for old, new in zip(*numbers, strict=True):
        decimals = 0 if "e" in old else len(old.partition(".")[2])
        last = 1.5 * 10.0**-decimals if decimals else 0.0
        if not math.isclose(float(old), float(new), rel_tol=0.02, abs_tol=last):
            return False
    return True


def differing(stored: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> list[int]:
    """Return the indices of cells that say something else."""
    pairs = enumerate(zip(stored.cells, fresh.cells, strict=True))
    return [i for i, (a, b) in pairs if a.cell_type == "code" and not agree(said(a), said(b))]


def execute(path: Path, *, timeout: float) -> list[str]:
    """Run one notebook; write it and return nothing, or return what is wrong with it."""
    started = time.perf_counter()
    try:
        notebook = run(path, fast=False, more=[MEMORY], timeout=timeout)
        seconds = time.perf_counter() - started
        memory = int(notebook.cells.pop().outputs[0].text) / 1e6  # from kB
        fast = run(path, fast=True, timeout=timeout)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return [str(error).strip()]
    normalise(notebook)
    cost = f"**Cost** {seconds:.0f} s, {memory:.1f} GB of memory (2 cores)"
    notebook.cells[0].source = COST.sub(cost, notebook.cells[0].source)
    other = set(differing(notebook, fast))
    for index, cell in enumerate(notebook.cells):
        tags = [tag for tag in cell.metadata.get("tags", []) if tag != TAG]
        tags += [TAG] if index in other else []
        cell.metadata.pop("tags", None)
        if tags:
            cell.metadata["tags"] = tags
    text = nbformat.writes(notebook) + "\n"
    size = len(text.encode())
    print(f"{path.name:48s} {size / 1000:6.0f} kB {seconds:6.1f} s", flush=True)
    problems = private_paths(notebook)
    if size > MAX_BYTES:
        problems.append(f"{size / 1000:.0f} kB is over the budget of {MAX_BYTES / 1000:.0f} kB")
    if not problems:
        path.write_text(text, encoding="utf-8")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--timeout", type=float, default=900, help="seconds a cell may take")
    arguments = parser.parse_args()
    failed = 0
    for path in arguments.notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        problems = execute(path, timeout=arguments.timeout)
        for problem in problems:
            print(f"{path.name}: {problem}", file=sys.stderr)
        failed += bool(problems)
    if failed:
        print(f"{failed} notebook(s) left as they were", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
