"""What OpenVINO computes wrongly, written so that it computes it right; each file tells which version does what."""
