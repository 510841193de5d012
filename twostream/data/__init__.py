"""Annotations, splits without leakage, clip sampling, joint augmentation, and batches from a flow cache."""
