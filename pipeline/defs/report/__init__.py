"""The report, the model card, and which policy is promoted."""
