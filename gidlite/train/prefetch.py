"""Making examples ahead of their use, in processes of their own.

On a GPU a step takes less time than a scene takes to compose; a dozen CPU cores keep up.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gidlite.dataset import MotionDataset

__all__ = ["Prefetched"]


class Prefetched(Dataset):
    """A dataset whose items are made ahead, as long as they are taken in order.

    Args:
        dataset: On the CPU.
        workers: Processes.
        ahead: Items that each of them may be ahead.
    """

    def __init__(self, dataset: MotionDataset, workers: int, *, ahead: int = 4) -> None:
        self._dataset, self._workers, self._ahead = dataset, workers, ahead
        self._coming: Iterator[dict[str, Tensor]] = iter(())
        self._next = -1

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return one item, made here and now."""
        return self._dataset[number]

    def take(self, numbers: range) -> list[dict[str, Tensor]]:
        """Return the items of these numbers; a number out of order starts the processes anew."""
        if numbers.start != self._next:
            self._start(numbers)
        self._next = numbers.start + len(numbers) * numbers.step
        return list(itertools.islice(self._coming, len(numbers)))

    def _start(self, numbers: range) -> None:
        self._coming = iter(())  # ends the processes of before
        loader = DataLoader(
            self._dataset, batch_size=None, sampler=itertools.count(numbers.start, numbers.step),
            num_workers=self._workers, prefetch_factor=self._ahead, worker_init_fn=_obey_the_run,
        )  # fmt: skip
        self._coming = iter(loader)


def _obey_the_run(_: int) -> None:
    """Let a worker end when the run says so, and leave Ctrl-C to the run."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
