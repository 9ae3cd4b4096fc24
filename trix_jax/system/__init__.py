"""What a run needs of the machine: files, the host, devices. Nothing here knows of tiles."""
