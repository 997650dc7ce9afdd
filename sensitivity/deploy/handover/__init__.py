"""A scheme in the words of other tools: one file a tool."""
