"""Networks: tensors in, tensors out. Nothing here knows of Hounsfield units, files or geometry."""
