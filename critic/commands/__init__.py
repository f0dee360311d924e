"""The commands of the critic's command line, one file each."""
