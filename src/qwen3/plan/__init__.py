"""Plans for TPUs that are not here: see `command` for the command, `steps.STEPS` for the steps."""
