"""The grid backend: certified global maximisation in few dimensions, by tables and by branch and bound."""
