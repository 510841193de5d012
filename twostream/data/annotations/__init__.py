"""Video records (path, label, source group) of folder trees, official split lists and tables, a file a format.

Every loader takes the relative paths of the videos that exist, so the same code serves a folder of videos and
a flow cache whose videos were deleted; `list_videos` makes that list from a folder.
"""

from twostream.data.annotations.folders import load_folders, load_split_folders
from twostream.data.annotations.hmdb import load_hmdb, load_jhmdb
from twostream.data.annotations.kth import load_kth
from twostream.data.annotations.load import detect_format, list_videos, load_annotations, read_annotations
from twostream.data.annotations.mmaction import load_mmaction
from twostream.data.annotations.records import Annotations, OfficialSplit, VideoRecord
from twostream.data.annotations.table import load_csv
from twostream.data.annotations.ucf import load_ucf

__all__ = [
    "Annotations",
    "OfficialSplit",
    "VideoRecord",
    "detect_format",
    "list_videos",
    "load_annotations",
    "load_csv",
    "load_folders",
    "load_hmdb",
    "load_jhmdb",
    "load_kth",
    "load_mmaction",
    "load_split_folders",
    "load_ucf",
    "read_annotations",
]
