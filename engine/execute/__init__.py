"""Who executes, and where: instances, placement, warm-up, supervision."""
