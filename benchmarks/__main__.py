"""Every figure of speed beside its target and a peer measured in the same run: `make bench`.

It wants an idle machine, for about ten minutes. ``python -m benchmarks splat page`` measures only
those. More tables, of single parts, come from the files beside this one.
"""

import argparse
import os
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import commands, folder, page, render, splat, studio

PARTS = {
    "commands": commands, "render": render, "splat": splat, "page": page, "folder": folder,
    "studio": studio,
}  # fmt: skip


def show(parts: Sequence[str]) -> None:
    """Measure and print one table, each row also as soon as it is known."""
    console = Console()
    table = Table("work", "measured", "target", "", "peer, same run")
    for part in parts:
        for row in PARTS[part].rows():
            console.print("  ".join(row.cells()), highlight=False)
            table.add_row(*row.cells())
        table.add_section()
    console.print(table)
    load = os.getloadavg()[0]
    console.print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load:.1f}")


def main() -> None:
    """Print the table of the parts that are asked for, by default of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    asked = parser.parse_args().parts
    if unknown := set(asked) - set(PARTS):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    show(asked or list(PARTS))


if __name__ == "__main__":
    main()
