"""Paper: the published experiments with their claims and verdicts, by public names only."""
