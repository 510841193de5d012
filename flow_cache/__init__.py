"""Optical flow of many videos, computed once, stored small, read fast.

    from flow_cache import CacheReader, FlowSettings, PrecomputeConfig, get_method, precompute, quantize

All that a user of this package needs has its name here; `__init__.pyi` lists it. A name's module is imported when the
name is first used, so `import flow_cache` costs next to nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
