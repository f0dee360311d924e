"""Other projects' best of K, each as its own package has it, for ``benchmarks.gateway``."""
