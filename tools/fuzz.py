"""Damage valid files in many ways, read each, and print what breaks the promises of the readers.

python tools/fuzz.py --count 2000 -o outputs/fuzz [READER...]   # all readers by default
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("", "tests/reliability")]
from fuzzing import Reader, damaged, drawn_steps, seeds_of  # noqa: E402
from readers import READERS, write_seeds  # noqa: E402


def main() -> None:
    """Keep one input of every kind of failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=list(READERS))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/fuzz"))
    options = parser.parse_args()
    seeds, reader = options.output / "seeds", Reader()
    shutil.rmtree(seeds, ignore_errors=True)
    write_seeds(seeds)
    for name in options.readers:
        files, kinds, begun = seeds_of(name, seeds), Counter(), time.monotonic()
        for number in range(options.count):
            chance = random.Random(f"{options.seed} {name} {number}")
            seed, steps = chance.choice(files), drawn_steps(chance)
            path = damaged(name, seed, seeds, steps, options.output / "now")
            if problem := reader.ask(name, path):
                kind = problem.split(": ")[0][:90]
                if kind not in kinds:
                    kept = options.output / f"{name}_{number}"
                    shutil.rmtree(kept, ignore_errors=True)
                    shutil.copytree(path if path.is_dir() else path.parent, kept)
                    print(f"{kept} {seed.name}: {problem}", flush=True)
                kinds[kind] += 1
        took = time.monotonic() - begun
        print(f"== {name}: {options.count} read, {kinds.total()} failed, {took:.0f} s", flush=True)
    reader.close()


if __name__ == "__main__":
    main()
