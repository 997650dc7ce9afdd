"""Figures of a study, drawn without pyplot: no backend is chosen and no global state is touched.

Importing these modules imports matplotlib; the front door does so only when a figure is asked for.
"""
