"""What stands around a layer: blocks, attention, gates, and the kind, role and flags that follow from them."""
