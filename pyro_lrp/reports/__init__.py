"""Reports on sets of runs, and the claims that they are to decide."""
