"""Pictures, progress and, in time, reports; renders what it is given and never imports `aligned`."""
