"""Training: the autoencoder, then the prior, on synthetic scenes and real shards.

Everything random is a function of the seed and the step, and scene number i of the seed alone,
so a run resumed on a CPU continues exactly as if it had not stopped. Scenes go through a *pool*:
a window of recent scenes from which every step draws its batch and into which it puts a few new
ones. On a CPU, where making a scene costs as much as learning from it, each is used several times.

``run`` collects the data, ``loop`` makes the task of a part, ``engine`` steps through it, alone or
under ``accelerate launch``; ``state``, ``checkpoint`` and ``log`` hold what a run leaves behind.
"""

from gidlite.train.checkpoint import load_checkpoint, read_meta
from gidlite.train.config import PARTS, TrainConfig
from gidlite.train.data import ScenePool, make_dataset
from gidlite.train.engine import train_task
from gidlite.train.interface import Pace, Task
from gidlite.train.loop import train
from gidlite.train.run import run_training

__all__ = [
    "PARTS",
    "Pace",
    "ScenePool",
    "Task",
    "TrainConfig",
    "load_checkpoint",
    "make_dataset",
    "read_meta",
    "run_training",
    "train",
    "train_task",
]
