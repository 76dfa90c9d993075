"""REDUCE to proximal transport: costs, the reduction to the intrinsic dimension, boundedness."""
