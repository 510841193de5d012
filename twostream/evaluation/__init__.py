"""Predictions of a checkpoint on one side of a split, as values and as a file, and the figures they give."""
