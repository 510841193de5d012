"""The command `flow-cache`: arguments and printing."""
