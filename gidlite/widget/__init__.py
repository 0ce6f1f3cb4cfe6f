"""A photo to touch: ``ModalExplorer`` in a notebook, ``write_page`` for one self-contained page.

Both run ``explorer.js``, a plain ES module that holds physics and rendering.
"""

from gidlite.widget.page import write_page
from gidlite.widget.scene import Scene, make_scene

__all__ = ["ModalExplorer", "Scene", "make_scene", "write_page"]


def __getattr__(name: str):
    if name == "ModalExplorer":  # needs anywidget, which a page does not
        from gidlite.widget.explorer import ModalExplorer

        return ModalExplorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
