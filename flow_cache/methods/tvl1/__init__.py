"""TV-L1 on the CPU: parameters (which its CUDA version shares), the estimator, and its compiled kernels."""
