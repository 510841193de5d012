"""Training with Lightning: a run that can be killed at any time and started again."""
