"""Training of the three stages: data, tasks and one visible loop."""
