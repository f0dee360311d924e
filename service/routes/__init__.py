"""HTTP routes, one file a noun. A handler gets what it needs and awaits it."""
