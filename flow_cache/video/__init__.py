"""Videos: how they are found, decoded to frames, copied from remote storage and hashed."""
