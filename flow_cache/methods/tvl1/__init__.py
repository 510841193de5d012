"""TV-L1 on the CPU: the estimator, its compiled kernels, and the parameters, which the CUDA version uses too."""
