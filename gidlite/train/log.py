"""What a run leaves to look at: log.csv, TensorBoard events, and sheets of samples."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path

from torch import Tensor

from gidlite.media import write_image

__all__ = ["RunLog"]

COLUMNS = (
    "step", "seconds", "loss", "smoothed_loss", "learning_rate", "gradient_norm", "event",
)  # fmt: skip
logger = logging.getLogger(__name__)


class RunLog:
    """The log of a run folder, written by one process.

    A row of ``log.csv`` holds numbers at a step, or an event in words. Steps only ever increase:
    rows that a resumed or rolled back run will write again are taken out first.

    Args:
        out: Folder of the run, made if need be.
        step: Rows after this step are dropped; -1 begins anew.
        write: False for all processes but one, which then do nothing here.
    """

    def __init__(self, out: Path, *, step: int, write: bool) -> None:
        self.out, self._write, self._board = out, write, None
        if write:
            out.mkdir(parents=True, exist_ok=True)
            self._writer = _board_writer()
        self.rewind(step)

    def rewind(self, step: int) -> None:
        """Drop what was logged after ``step``."""
        if not self._write:
            return
        path = self.out / "log.csv"
        kept: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as stream:
                kept = [row for row in csv.DictReader(stream) if int(row["step"]) <= step]
        fresh = path.with_suffix(".new")
        with fresh.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        os.replace(fresh, path)
        self.close()
        if self._writer is not None:
            # Older events from this step on are hidden.
            self._board = self._writer(str(self.out / "tensorboard"), purge_step=step + 1)

    def numbers(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Add one row; ``values`` are named as the columns."""
        shown = {name: f"{value:.7g}" for name, value in values.items()}
        self._row({"step": step, "seconds": f"{seconds:.1f}"} | shown)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def event(self, step: int, seconds: float, text: str) -> None:
        """Add one row of words and say them on the console."""
        if self._write:
            logger.warning(text)
        self._row({"step": step, "seconds": f"{seconds:.1f}", "event": text})
        if self._board is not None:
            self._board.add_text("event", text, step)

    def sheet(self, step: int, image: Tensor) -> None:
        """Write a picture ``(3, H, W)`` in [0, 1] as ``sheets/step_<step>.png``."""
        if self._write:
            write_image(self.out / "sheets" / f"step_{step:07d}.png", image)
        if self._board is not None:
            self._board.add_image("sheet", image.float().clamp(0, 1).cpu(), step)

    def close(self) -> None:
        """Finish the TensorBoard file; the next row opens no new one."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _row(self, values: dict[str, object]) -> None:
        if self._write:
            with (self.out / "log.csv").open("a", newline="") as stream:
                csv.DictWriter(stream, COLUMNS, restval="").writerow(values)


def _board_writer() -> type | None:
    """Return the class that writes TensorBoard files, or None and say so."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("tensorboard is not installed, so the run is logged to log.csv alone")
        return None
    return SummaryWriter
