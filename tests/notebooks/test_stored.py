"""Notebooks are stored as executed, and say today what they said then."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from execute_notebooks import MAX_BYTES, TAG, agree, differing, private_paths, run, said, solutions  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The least share of cells with text that fast mode can compare.
COMPARED = 0.4


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{n:02}" for n in range(16)]


def test_stored_as_executed(path):
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "not executed, or out of order"
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert private_paths(notebook) == []
    assert path.stat().st_size <= MAX_BYTES


@pytest.mark.slow
def test_stored_text_is_what_the_code_says(path):
    """Runs the notebook in fast mode, then its solutions: the one run of notebooks in the suite."""
    stored = nbformat.read(path, as_version=4)
    answers = solutions(stored)
    fresh = run(path, fast=True, more=answers)
    solved, fresh.cells = fresh.cells[len(stored.cells) :], fresh.cells[: len(stored.cells)]
    for cell in solved:
        assert ": right." in said(cell), f"{path.name}: {cell.source}\nsays {said(cell)}"
    texts = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    stars = re.findall(r"^★+ \*\*\d\d\.\d\*\*", texts, re.MULTILINE)
    assert len(stars) == len(answers) >= 2, "every exercise has a solution that is checked"
    exempt = {i for i, cell in enumerate(stored.cells) if TAG in cell.metadata.get("tags", [])}
    for index in set(differing(stored, fresh)) - exempt:
        old, new = said(stored.cells[index]), said(fresh.cells[index])
        pytest.fail(f"cell {index} of {path.name} stored\n{old}\nand says\n{new}")
    texts = [i for i, cell in enumerate(stored.cells) if cell.cell_type == "code" and said(cell)]
    assert len(set(texts) - exempt) >= COMPARED * len(texts)


@pytest.mark.parametrize(
    ("stored", "fresh", "alike"),
    [
        ("rms 0.250 px", "rms 0.251 px", True),
        ("rms 0.250 px", "rms 0.260 px", False),
        ("8 bins of 12", "8 bins of 13", False),
        ("loss 0.1", "loss 0.2", True),  # a last decimal
        ("rms 0.25 px", "rms 0.25 Hz", False),
        ("took <time>", "took <time>", True),
        ("1.0e-06 left", "3.0e-06 left", False),
        ("[1, 2]", "[1, 2, 3]", False),
    ],
)
def test_texts_are_compared_within_a_tolerance(stored, fresh, alike):
    assert agree(stored, fresh) is alike
