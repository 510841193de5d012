"""The commands: parse arguments, build, call."""
