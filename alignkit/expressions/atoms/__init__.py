"""The nonlinear atoms, a file per family."""
