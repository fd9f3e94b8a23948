"""Format following: templates, records edited in place, answers that stop exactly."""
