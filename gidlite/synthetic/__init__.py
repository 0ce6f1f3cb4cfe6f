"""A world that sways: scenes whose motion is known exactly.

``brush``, ``families`` and ``backdrop`` paint, ``pieces`` collects cut-outs and backdrops (or
photographic ones), ``compose`` decides what is in a scene, ``sway`` how it moves, ``camera`` how
it is photographed, and ``scenes`` holds the result with its labels.
"""

from gidlite.synthetic.pieces import Pieces
from gidlite.synthetic.scenes import NUM_LAYERS, Scenes, make_scenes

__all__ = ["NUM_LAYERS", "Pieces", "Scenes", "make_scenes"]
