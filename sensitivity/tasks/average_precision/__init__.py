"""Detections matched with annotated objects, and the precision and recall that follow."""
