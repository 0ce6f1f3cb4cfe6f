"""From anyone's videos to training shards, on one machine or many.

``plan`` finds videos and cuts them into segments, ``screening`` decides what can teach motion,
``segment`` turns one segment into samples and a record, ``run`` does so for all of them.
"""

from gidlite.extract.plan import VIDEO_SUFFIXES, Segment, Settings, find_videos, make_plan
from gidlite.extract.run import Report, run_extraction
from gidlite.extract.screening import Limits
from gidlite.extract.segment import extract_segment

__all__ = [
    "VIDEO_SUFFIXES",
    "Limits",
    "Report",
    "Segment",
    "Settings",
    "extract_segment",
    "find_videos",
    "make_plan",
    "run_extraction",
]
