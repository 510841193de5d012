"""The flow engine on CUDA: estimators that drive the kernels of `kernels` through one narrow seam.

Nothing here imports CuPy before a device is asked for, nor OpenCV at any time.
"""
