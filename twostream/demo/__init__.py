"""The embedded demo: a small generated data set of real video files, whose classes need both streams."""

from twostream.demo.generate import (
    MANIFEST_NAME,
    DemoSettings,
    demo_classes,
    generate_demo,
)
from twostream.demo.scene import APPEARANCES, MOTIONS

__all__ = ["APPEARANCES", "MANIFEST_NAME", "MOTIONS", "DemoSettings", "demo_classes", "generate_demo"]
