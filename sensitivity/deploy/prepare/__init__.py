"""Before a graph is written: the folded copy, the plan, what can be deployed."""
