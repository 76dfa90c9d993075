"""REDUCE to proximal problems: costs, the reduction to k dimensions, and what structure decides beforehand."""
