"""The flow engine on CUDA: estimators that launch the kernels of `kernels` through one narrow interface (`backend`).

CuPy is imported only when a device is asked for, OpenCV never.
"""
