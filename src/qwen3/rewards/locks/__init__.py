"""The combination lock, a world of problems that even tiny models learn, and its tasks."""
