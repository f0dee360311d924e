"""For scaffolds where a base URL is not enough. Each module needs its scaffold installed, which is
no dependency of ours; for those where a base URL is enough see docs/integrations."""
