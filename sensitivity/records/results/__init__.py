"""What was found: studies, searches, diagnoses, verifications, latencies."""
