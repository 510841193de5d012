"""One video in, an answer out."""
