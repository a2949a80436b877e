"""What every room needs and none is about: files, devices, progress, text, drawing."""
