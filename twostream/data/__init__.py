"""Annotations, splits without leakage, clip sampling, joint augmentation, and batches from a flow cache."""

from twostream.data.annotations import Annotations, VideoRecord, load_annotations
from twostream.data.dataset import ClipDataset, ClipKey, ClipLoader, ClipSampler
from twostream.data.module import ActionDataModule, DataConfig, VideoData, load_data
from twostream.data.sampling import ClipShape
from twostream.data.splits import Split, SplitConfig, make_split
from twostream.data.transforms import AugmentConfig

__all__ = [
    "ActionDataModule",
    "Annotations",
    "AugmentConfig",
    "ClipDataset",
    "ClipKey",
    "ClipLoader",
    "ClipSampler",
    "ClipShape",
    "DataConfig",
    "Split",
    "SplitConfig",
    "VideoData",
    "VideoRecord",
    "load_annotations",
    "load_data",
    "make_split",
]
