"""The public names, for editors, type checkers and `__init__.py`, which loads them from here on first use."""

from .checkpoints import Checkpoint, ModelCard, load_checkpoint
from .config import FlowConfig, TrainConfig
from .data.loading import VideoData, load_data
from .data.module import ActionDataModule
from .data.settings import AugmentConfig, DataConfig, SplitConfig
from .demo.generate import DemoSettings, generate_demo
from .errors import CheckpointError, ConfigError, DataError, TwoStreamError
from .evaluation.files import read_evaluation
from .evaluation.predictions import evaluate
from .evaluation.results import Evaluation, Protocol
from .inference.predict import predict
from .inference.predictor import Prediction, Predictor
from .models.settings import ModelConfig
from .models.two_stream import TwoStream
from .reports.tables import read_predictions
from .reports.write import write_reports
from .run import RunResult, train
from .training.settings import OptimConfig, TrainerConfig

__all__ = [
    "ActionDataModule",
    "AugmentConfig",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "DataConfig",
    "DataError",
    "DemoSettings",
    "Evaluation",
    "FlowConfig",
    "ModelCard",
    "ModelConfig",
    "OptimConfig",
    "Prediction",
    "Predictor",
    "Protocol",
    "RunResult",
    "SplitConfig",
    "TrainConfig",
    "TrainerConfig",
    "TwoStream",
    "TwoStreamError",
    "VideoData",
    "evaluate",
    "generate_demo",
    "load_checkpoint",
    "load_data",
    "predict",
    "read_evaluation",
    "read_predictions",
    "train",
    "write_reports",
]
