"""Two-stream video action recognition: CNN-LSTM streams over RGB and optical flow, merged by attention.

The public names are loaded when they are first used; `__init__.pyi` says which there are and where they live.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
