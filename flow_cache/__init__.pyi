from .cache.codecs import StorageSettings as StorageSettings
from .cache.index import IndexEntry as IndexEntry
from .cache.index import read_index as read_index
from .cache.index import rebuild_index as rebuild_index
from .cache.meta import CacheMeta as CacheMeta
from .cache.meta import Source as Source
from .cache.naming import cache_path as cache_path
from .cache.reader import CacheReader as CacheReader
from .cache.writer import CacheWriter as CacheWriter
from .cli.streams import print_line as print_line
from .cli.streams import run_program as run_program
from .commands.colours import flow_colours as flow_colours
from .commands.export import ExportConfig as ExportConfig
from .commands.export import export_cache as export_cache
from .commands.import_folders import ImportConfig as ImportConfig
from .commands.import_folders import import_folders as import_folders
from .commands.info import CacheInfo as CacheInfo
from .commands.info import describe_cache as describe_cache
from .commands.recode import RecodeConfig as RecodeConfig
from .commands.recode import recode_cache as recode_cache
from .commands.verify import Verification as Verification
from .commands.verify import Videos as Videos
from .commands.verify import repair_cache as repair_cache
from .commands.verify import verify_cache as verify_cache
from .commands.view import view as view
from .errors import ArgumentError as ArgumentError
from .errors import CacheFileError as CacheFileError
from .errors import CacheMismatchError as CacheMismatchError
from .errors import CacheWriteError as CacheWriteError
from .errors import DeviceError as DeviceError
from .errors import FlowCacheError as FlowCacheError
from .errors import StorageError as StorageError
from .errors import VideoError as VideoError
from .errors import first_names as first_names
from .errors import one_line as one_line
from .methods.base import FlowMethod as FlowMethod
from .methods.registry import get_method as get_method
from .methods.registry import method_names as method_names
from .methods.registry import preset_names as preset_names
from .pipeline.inputs import expand_videos as expand_videos
from .pipeline.outcome import Failure as Failure
from .pipeline.outcome import PrecomputeInterrupted as PrecomputeInterrupted
from .pipeline.outcome import PrecomputeSummary as PrecomputeSummary
from .pipeline.outcome import read_failures as read_failures
from .pipeline.run import precompute as precompute
from .pipeline.settings import FlowSettings as FlowSettings
from .pipeline.settings import PrecomputeConfig as PrecomputeConfig
from .pipeline.video_flow import video_flow as video_flow
from .pipeline.worker import Job as Job
from .pipeline.worker import cache_video as cache_video
from .progress import Progress as Progress
from .progress import format_seconds as format_seconds
from .quantization import clip_fraction as clip_fraction
from .quantization import dequantize as dequantize
from .quantization import negate as negate
from .quantization import quantize as quantize
from .runtime import available_cores as available_cores
from .runtime import interruptible as interruptible
from .runtime import leave_signals_to_parent as leave_signals_to_parent
from .runtime import signals_blocked as signals_blocked
from .storage.lock import try_lock as try_lock
from .storage.paths import as_path as as_path
from .storage.remote import RemotePath as RemotePath
from .storage.table import csv_bytes as csv_bytes
from .video.damage import Damage as Damage
from .video.damage import Gap as Gap
from .video.find import find_videos as find_videos
from .video.find import is_video as is_video
from .video.frames import Frame as Frame
from .video.frames import Framing as Framing
from .video.frames import probe_fps as probe_fps
from .video.frames import read_frames as read_frames
from .video.source import hash_of_video as hash_of_video
from .video.source import local_copy as local_copy

__all__ = [
    "ArgumentError",
    "CacheFileError",
    "CacheInfo",
    "CacheMeta",
    "CacheMismatchError",
    "CacheReader",
    "CacheWriteError",
    "CacheWriter",
    "Damage",
    "DeviceError",
    "ExportConfig",
    "Failure",
    "FlowCacheError",
    "FlowMethod",
    "FlowSettings",
    "Frame",
    "Framing",
    "Gap",
    "ImportConfig",
    "IndexEntry",
    "Job",
    "PrecomputeConfig",
    "PrecomputeInterrupted",
    "PrecomputeSummary",
    "Progress",
    "RecodeConfig",
    "RemotePath",
    "Source",
    "StorageError",
    "StorageSettings",
    "Verification",
    "VideoError",
    "Videos",
    "as_path",
    "available_cores",
    "cache_path",
    "cache_video",
    "clip_fraction",
    "csv_bytes",
    "dequantize",
    "describe_cache",
    "expand_videos",
    "export_cache",
    "find_videos",
    "first_names",
    "flow_colours",
    "format_seconds",
    "get_method",
    "hash_of_video",
    "import_folders",
    "interruptible",
    "is_video",
    "leave_signals_to_parent",
    "local_copy",
    "method_names",
    "negate",
    "one_line",
    "precompute",
    "preset_names",
    "print_line",
    "probe_fps",
    "quantize",
    "read_failures",
    "read_frames",
    "read_index",
    "rebuild_index",
    "recode_cache",
    "repair_cache",
    "run_program",
    "signals_blocked",
    "try_lock",
    "verify_cache",
    "video_flow",
    "view",
]
