"""gidlite: generative image dynamics you can read, run and measure.

``import gidlite`` is light: import what you need from the rooms along a photo's journey, that is
``media``, ``motion``, ``prior``, ``render`` and ``dynamics``, and behind them ``data``, ``train``,
``evaluate`` and ``cli``; see ``docs/architecture.md``.

Beside other busy programs set ``OMP_WAIT_POLICY=PASSIVE`` and ``GOMP_SPINCOUNT=5000`` before torch
is imported, as the ``gidlite`` command does: work that takes all cores is done three times sooner.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from typing import Any

__version__ = "0.1.0"


def studio(photo: Any = None) -> Any:
    """Open the studio in a notebook cell: drop a photo there, touch it, take the loop home.

    A ``photo``, as ``media.as_image`` takes it, is shown first; see ``web.widget.Studio``.
    """
    return importlib.import_module("gidlite.web.widget").Studio(photo)


# Modules under their other names, for one release.
_MOVED = {
    "gidlite.modal": "gidlite.dynamics.modal",
    "gidlite.normalize": "gidlite.motion.normalize",
    "gidlite.spectral": "gidlite.motion.spectral",
    "gidlite.splat": "gidlite.render.splat",
}


class _Moved:
    """Finds a moved module under its old name: the same module object, not a copy."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Moved) if name in _MOVED else None

    @staticmethod
    def create_module(spec: ModuleSpec):
        module = importlib.import_module(_MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    @staticmethod
    def exec_module(module) -> None:
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(_Moved)
