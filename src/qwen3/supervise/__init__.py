"""A run on the hosts of a pod: attempts, watchdog, health, and its status from what they report."""
