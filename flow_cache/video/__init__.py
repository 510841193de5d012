"""Videos: which there are, their frames, and the file that they come from."""
