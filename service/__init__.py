"""The process: HTTP routes, policies and critics behind their contracts, runs, Redis, sandboxes."""
