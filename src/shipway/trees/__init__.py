"""A tree as data: entries, walks, the merged view of layers, differences, copying out."""
