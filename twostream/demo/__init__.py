"""The embedded demo: a small generated data set of real video files, whose classes need both streams."""
