"""The mutations of each room of the project, a file each."""
