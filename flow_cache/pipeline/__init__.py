"""Videos to cache files: settings, which videos, what is to be done, the work on one, and the run over all."""
