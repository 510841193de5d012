"""Who carries a run out: worker processes of this machine, a process for each GPU, the nodes of a Ray cluster."""
