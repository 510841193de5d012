"""Estimators of optical flow: grey frames in, flow out. `registry.get_method` returns one by name."""
