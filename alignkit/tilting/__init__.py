"""Reductions under KL closeness: from rewards to programs over linear exponential tilts."""
