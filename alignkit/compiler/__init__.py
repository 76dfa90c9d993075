"""CHECK AND ROUTE: from a declared reward to a plan that says how it will be solved, and why so."""
