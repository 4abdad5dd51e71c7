"""Links from tasks to the cluster page."""
