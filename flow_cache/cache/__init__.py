"""One cache file a video: its name, what it says about itself, its codecs, reading and writing; the index of many."""
