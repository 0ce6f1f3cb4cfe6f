"""The processes of a run: their device, their share of the work, and when all of them stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import is_initialized
from accelerate.utils import gather_object, get_int_from_env
from torch import Tensor

from gidlite._checks import GidliteError

__all__ = [
    "StopSignals",
    "finish",
    "is_main_process",
    "local_device",
    "make_accelerator",
    "private_randomness",
    "shared_make",
]

# How launchers (accelerate, torchrun, several kinds of MPI) tell the number of processes.
_WORLD = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def make_accelerator(device: torch.device | str) -> Accelerator:
    """Return the accelerator of this process; every call in a process returns the same state.

    Precision is left to the loop, which reads it from the config, so that a checkpoint says how
    it was trained; ``accelerate launch --mixed_precision`` changes nothing.

    Args:
        device: "cpu" joins several processes with gloo; otherwise the backend of the device.
    """
    if is_initialized():
        return Accelerator()
    # A process on its own places its tensors itself. The shared state could not be moved from a
    # GPU to the CPU later, so there it never knows of the GPU.
    alone = get_int_from_env(_WORLD, 1) == 1
    return Accelerator(cpu=alone or torch.device(device).type == "cpu", mixed_precision="no")


def local_device(device: torch.device | str) -> torch.device:
    """Return the device of this process: one of several processes on "cuda" gets its own GPU.

    Raises:
        GidliteError: If this machine has no such device.
    """
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise GidliteError(f"device {str(device)!r} is not available; try cpu") from None
    accelerator = make_accelerator(wanted)
    return accelerator.device if accelerator.num_processes > 1 else wanted


def is_main_process() -> bool:
    """Return whether this process is the one that writes files and talks to the user."""
    return not is_initialized() or PartialState().is_main_process


def finish() -> None:
    """Leave the group of processes; nothing can be trained in this process afterwards."""
    if is_initialized():
        PartialState().destroy_process_group()


def private_randomness(device: torch.device) -> AbstractContextManager:
    """Return a context after which the caller's global random state is as it was before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def shared_make(
    accelerator: Accelerator, make: Callable[[range], dict[str, Tensor]]
) -> Callable[[range], dict[str, Tensor]]:
    """Return ``make`` with its work divided: each process makes a part, and all get everything.

    Every process keeps the whole pool, because the rows of a batch may come from anywhere in it;
    what is divided is the making. Ranges shorter than the number of processes are made by all,
    so ``new_scenes_per_step`` should be a multiple of it.
    """
    world, rank = accelerator.num_processes, accelerator.process_index

    def made(numbers: range) -> dict[str, Tensor]:
        if len(numbers) < world:
            return make(numbers)
        mine = make(numbers[rank::world])
        parts = gather_object([{name: tensor.cpu() for name, tensor in mine.items()}])
        places = [(n % world, n // world) for n in range(len(numbers))]
        return {
            name: torch.stack([parts[part][name][row] for part, row in places]).to(tensor.device)
            for name, tensor in mine.items()
        }

    return make if world == 1 else made


class StopSignals:
    """A context in which SIGTERM and SIGINT set ``received`` instead of ending the process.

    A repeated signal changes nothing: launchers pass on what the terminal has already sent, and
    the checkpoint must still be written. Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[int, object] = {}

    def _note(self, *_: object) -> None:
        self.received = True

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
