"""HTML for notebooks and pages: the writer of elements, the colours and text sizes, and the style of views."""
