"""Many tasks through the service, into a folder that says at any moment what is done."""
