"""What the whole-system tests and the scripts share: labs, workloads, models. No test is in here."""
