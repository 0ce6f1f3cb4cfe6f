"""Every figure of speed beside its target and a peer measured in the same run: `make bench`.

It wants an idle machine, for about ten minutes. ``python -m benchmarks splat page`` measures only
those. More tables, of single parts, come from the files beside this one.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import commands, folder, page, render, splat
from benchmarks.rows import Row

PARTS = {
    part.__name__.split(".")[-1]: part.rows for part in (commands, render, splat, page, folder)
}


def show(parts: Mapping[str, Callable[[], Iterator[Row]]]) -> None:
    """Measure and print one table, each row also as soon as it is known."""
    console = Console()
    table = Table("work", "measured", "target", "", "peer, same run")
    for name, rows in parts.items():
        for row in rows():
            console.print(*row.cells()[:4], sep="  ", highlight=False)
            table.add_row(*row.cells())
        table.add_section()
        console.print(f"({name} done)", style="dim")
    console.print(table)
    load = os.getloadavg()[0]
    console.print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load:.1f}")


def main() -> None:
    """Print the table of the parts that are asked for, by default of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], metavar="PART", default=list(PARTS)
    )
    show({name: PARTS[name] for name in parser.parse_args().parts})


if __name__ == "__main__":
    main()
