"""Real plants poked and released: fit the first half of each clip, predict the second.

python benchmarks/ringdown.py FOLDER_OR_CLIP...   prints one line per clip, errors in px at 256 wide
"""

import sys
from pathlib import Path
from statistics import geometric_mean

from studies.ringdown import check_ringdown


def main() -> None:
    """Print the table."""
    paths = [Path(argument) for argument in sys.argv[1:]]
    clips = [clip for path in paths for clip in (sorted(path.glob("phys_*")) or [path])]
    if not clips:
        print("give clips of things poked and released, or a folder that holds phys_* clips")
        return
    print("clip                 predicted  last pose  still  rest pose  modes (Hz @ damping)")
    ratios = []
    for clip in clips:
        result = check_ringdown(clip)
        modes = zip(result.fit.frequencies_hz.tolist(), result.fit.damping.tolist(), strict=True)
        print(
            f"{clip.stem:20} {result.predicted:9.3f} {result.last:10.3f} {result.still:6.2f} "
            f"{result.rest:10.3f}  " + ", ".join(f"{hz:.2f} @ {ratio:.3f}" for hz, ratio in modes),
            flush=True,
        )
        ratios.append([result.predicted / held for held in (result.last, result.still)])
    last, still = (geometric_mean(column) for column in zip(*ratios, strict=True))
    print(f"geometric mean of the ratio to holding the last pose {last:.2f}, the photo {still:.2f}")


if __name__ == "__main__":
    main()
