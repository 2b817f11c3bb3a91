"""Pure numerics: torch and the standard library, nothing else."""
